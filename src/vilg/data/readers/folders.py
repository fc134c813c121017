"""A folder of pictures with their captions beside them: NAME.jpg and NAME.txt, one caption a line."""

from collections.abc import Iterator
from pathlib import Path

from vilg.data.pairs import DataError, Items, Pair, Reject, find_picture, make_pair
from vilg.data.pictures import SUFFIXES, walk
from vilg.data.readers.records import name_of

TEXT_SUFFIXES = (".txt", ".caption")
_NOTES = ("readme", "license", "licence", "notice", "copying")  # what else lies in a folder


def lines_of(content: bytes) -> list[str]:
    """Return the lines of a text file, at whichever ends of lines.

    Raises:
        DataError: it is no UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"its text is no UTF-8 ({error.reason} at byte {error.start})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_folder(folder: Path, pictures: Path | None = None) -> Items:
    """Yield a folder's pictures and those below it, and texts that no picture belongs to.

    Args:
        pictures: no use here, where a picture lies beside its text.
    """
    others = dict[Path, str]()
    for path in walk(folder, others):
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            yield _pair(folder, path)
        elif (
            suffix in TEXT_SUFFIXES
            and path.stem.lower() not in _NOTES
            and not any(path.with_suffix(end).is_file() for end in _cases(SUFFIXES))
        ):
            yield Reject(place=_inside(folder, path), reason="no picture has this text")
    for path, kind in others.items():
        yield Reject(place=_inside(folder, path), reason=kind)


def _pair(folder: Path, path: Path) -> Pair | Reject:
    place = _inside(folder, path)
    texts = [text for end in _cases(TEXT_SUFFIXES) if (text := path.with_suffix(end)).is_file()]
    try:
        if not texts:
            raise DataError(f"no caption: there is no '{path.stem}.txt' or .caption beside it")
        read = find_picture(folder, _inside(folder, texts[0]), noun="text")
        captions = [(None, line) for line in lines_of(read()) if line.strip()]
        # On a disk that takes a.txt and a.TXT for one, both are there.
        others = [text.name for text in texts[1:] if not text.samefile(texts[0])]
        faults = [f"{other!r} is not read beside {texts[0].name!r}" for other in others]
        return make_pair(
            name_of(place), place, find_picture(folder, place), captions, faults=faults
        )
    except DataError as error:
        return Reject(place=place, id=name_of(place), reason=str(error))


def _inside(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _cases(suffixes: tuple[str, ...]) -> Iterator[str]:
    for suffix in suffixes:
        yield from (suffix, suffix.upper())
