"""Lines of numbered captions, `PICTURE#0<TAB>sentence`: Flickr8k and 30k, Flickr8k-CN, COCO-CN.

A folder's splits, and the words that people chose for COCO-CN's pictures (`tags`, spaces between them), are
tags of its pairs. Of several files of captions of the same pictures, those by people
are read, and the others (translated by machines or from English) are named as left out; to read one of
those, give it by itself. Files of segmented words (`*.bosonseg.txt`) say nothing else and are not counted.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vilg.data.pairs import DataError, Items, Reject, has_half_characters
from vilg.data.readers.annotations import Note, Notes, gather
from vilg.data.readers.captions import coco_names, split_of
from vilg.data.readers.records import name_of
from vilg.data.readers.tables import read_lines, read_table

LINE = re.compile(r"([^#\t]+)#(?:([a-z]+)#)?([0-9]+)[\t ](.*)")
_SPLIT = re.compile(
    r"(?:coco-cn_|flickr\d+k(?:cn)?_?|flickr_\d+k\.)(train|val|dev|test)(?:images)?\.txt"
)
_FOLDERS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k-images")
_BY_PEOPLE = (
    "flickr8kenc.caption.txt",
    "flickr8kzhc.caption.txt",
    "human-written-caption.txt",
    "k.token.txt",
    "results_20130124.token",
)
_TAGS = "imageid.human-written-tags.txt"
_ENGLISH = ("enc",)  # other methods of Flickr8k-CN are Chinese: zhc, zhb, zhg


def read_flickr(path: Path, pictures: Path | None = None) -> Items:
    """Read `Flickr8k.token.txt` and the like, or the newer `captions.txt`, a table of image and caption."""
    if path.is_dir() or is_numbered(path):
        return read_numbered(path, pictures)
    if pictures is None:
        pictures = next(
            (path.parent / name for name in _FOLDERS if (path.parent / name).is_dir()), None
        )
    return read_table(path, pictures)


def read_numbered(source: Path, pictures: Path | None = None) -> Items:
    """Read a file of numbered captions, or a folder of such files, whole."""
    if source.is_dir():
        found = numbered_files(source)
        chosen = [path for path in found if path.name.lower().endswith(_BY_PEOPLE)] or found[:1]
    else:
        found = chosen = [source]
    for path in found:
        if path not in chosen:
            reason = f"left out beside {chosen[0].name}: give it by itself to read it"
            yield Reject(place=path.name, reason=reason)
    yield from gather(_notes(chosen), pictures or chosen[0].parent)


def numbered_files(folder: Path) -> list[Path]:
    """Return the files of numbered captions in a folder, by their first lines."""
    return [path for path in sorted(folder.iterdir()) if is_numbered(path)]


def is_numbered(path: Path, method: bool | None = None, coco: bool | None = None) -> bool:
    """Say whether a file's first line is a numbered caption.

    Args:
        method: asks for one with a method between its numbers, as Flickr8k-CN has, or for one without.
        coco: asks for one of a picture of COCO's, or for none.
    """
    if "bosonseg" in path.name or path.suffix not in (".txt", ".token") or not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.readline(2**12).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    found = LINE.fullmatch(first.decode("utf-8", "replace"))
    return (
        found is not None
        and method in (None, found[2] is not None)
        and coco in (None, found[1].startswith("COCO_"))
    )


def _notes(paths: list[Path]) -> Notes:
    about = dict[str, _About]()
    yield from _read_about(paths[0].parent, about)
    told, seen = set[str](), set[str]()
    for path in paths:
        for number, line in read_lines(path):
            place = f"{path.name} line {number}"
            if not line.strip():
                continue
            try:
                key, note = _note(line, place, about)
                if key in seen:
                    raise DataError(f"{key} stands before it")
            except DataError as error:
                yield Reject(place=place, reason=str(error))
                continue
            seen.add(key)
            told.add(note.id)
            yield note
    for id, one in about.items():
        if id not in told:
            yield Reject(place=one.place, id=id, reason="no caption of it")


def _note(line: bytes, place: str, about: "Mapping[str, _About]") -> tuple[str, Note]:
    """Return what a line is of (picture, method and number), and its note."""
    text = line.decode("utf-8", "surrogateescape")
    found = LINE.fullmatch(text)
    if has_half_characters(text):
        raise DataError("bytes that are no UTF-8")
    if found is None:
        raise DataError("no line of the form PICTURE#NUMBER and a caption")
    image, method, number, caption = found.groups()
    if not caption.strip():
        raise DataError("an empty caption")
    coco, lang = re.fullmatch(r"COCO_\w+_0*(\d+)", image), None
    names = (image, *(f"{folder}/{image}" for folder in _FOLDERS))
    if coco:
        names, lang = coco_names(coco[1], str(split_of(image))), "zh"
    elif method:
        lang = "en" if method in _ENGLISH else "zh"
    id = name_of(image)
    tags = about[id].tags if id in about else {}
    note = Note(place=place, id=id, names=names, captions=((lang, caption),), tags=tags)
    return "#".join(filter(None, (image, method, number))), note


@dataclass(frozen=True)
class _About:
    """What a folder says of a picture beside its captions, and where first."""

    place: str
    tags: dict[str, str] = field(default_factory=dict)


def _read_about(folder: Path, about: dict[str, _About]) -> Iterator[Reject]:
    """Read the splits and tags of a folder; yield the lines that say nothing."""
    for path in sorted(folder.iterdir()):
        found = _SPLIT.fullmatch(path.name.lower())
        if not (found or path.name == _TAGS) or not path.is_file():  # a pipe has no end
            continue
        for number, line in read_lines(path):
            place, text = f"{path.name} line {number}", line.decode("utf-8", "surrogateescape")
            if not text.strip():
                continue
            image, *words = [text.strip()] if found else text.split()
            if has_half_characters(text) or not (found or words):
                reason = "bytes that are no UTF-8" if has_half_characters(text) else "no tags"
                yield Reject(place=place, reason=reason)
                continue
            tags = about.setdefault(name_of(image), _About(place)).tags
            tags |= {"split": found[1]} if found else {"tags": " ".join(words)}
