"""Any source of pairs: its format is recognised and said, and its items come one by one.

A source is a folder, a file, or a glob of files of one format ("shards/*.tar").
"""

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

from vilg.data.identity import Identity, identify
from vilg.data.ids import IdSet, read_ids
from vilg.data.pairs import DataError, Items, Pair, Reject, forget_folders
from vilg.data.pictures import check_outside
from vilg.data.readers.captions import read_aic, read_coco
from vilg.data.readers.folders import read_folder
from vilg.data.readers.muge import read_muge
from vilg.data.readers.numbered import is_numbered, numbered_files, read_flickr, read_numbered
from vilg.data.readers.packed import read_packed, split_of
from vilg.data.readers.parquet import read_parquet
from vilg.data.readers.prompts import PROMPT, read_prompts
from vilg.data.readers.questions import read_fmiqa, read_gqa, read_vqa
from vilg.data.readers.records import PICTURE
from vilg.data.readers.tables import read_jsonl, read_table
from vilg.data.readers.tars import read_tar
from vilg.data.readers.translated import fingerprint_of, with_translations
from vilg.data.shards import check_distinct, load_split


@dataclass(frozen=True)
class Format:
    """A way in which pairs are kept.

    Attributes:
        name: what `--format` and the line that says what was recognised call it.
        wants: what it is told by, for people whose source is none.
        files: the files that it has in a folder, or are a file itself; none where it does not fit. Looks at
            names, and at files' first and last bytes only.
        read: yields the items of one such file (or folder); its second argument is the folder of the
            pictures, where that is not the format's own.
    """

    name: str
    wants: str
    files: Callable[[Path], list[Path]]
    read: Callable[[Path, Path | None], Items]


_HEAD = 2**16  # bytes that tell a file's format, at its start and at its end
_PICTURE_KEY = rf'"({"|".join(PICTURE)})"\s*:'


def _ends_of(path: Path) -> tuple[str, str]:
    """Return the start and the end of a file, as far as they are text."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, path.stat().st_size - _HEAD))
        return (
            head.decode("utf-8", "replace").removeprefix("\ufeff").lstrip(),
            file.read(_HEAD).decode("utf-8", "replace"),
        )


def _files(
    *patterns: str, fits: Callable[[Path], bool] = lambda path: True, folders: tuple[str, ...] = ()
) -> Callable[[Path], list[Path]]:
    """Match a file by its name and what is in it, and a folder with such files at its top.

    Args:
        folders: that such files may lie in instead, below the top.
    """

    def files(source: Path) -> list[Path]:
        if not source.is_dir():
            return list(filter(is_one, [source]))
        tops = (source, *(source / name for name in folders if (source / name).is_dir()))
        found = ([path for path in sorted(top.iterdir()) if is_one(path)] for top in tops)
        return next(filter(None, found), [])

    def is_one(path: Path) -> bool:
        named = any(fnmatch(path.name.lower(), pattern) for pattern in patterns)
        return named and path.is_file() and fits(path)

    return files


def _json(start: str, *keys: str) -> Callable[[Path], list[Path]]:
    """Match JSON files that begin with a bracket and have all of these keys near their ends."""

    def fits(path: Path) -> bool:
        head, tail = _ends_of(path)
        return head.startswith(start) and all(
            re.search(rf'"{key}"\s*:', head + tail) for key in keys
        )

    return _files("*.json", fits=fits, folders=("annotations",))


def _has_object(*, prompt: bool) -> Callable[[Path], bool]:
    """Ask for JSON lines that tell of pictures, or of prompts alone."""

    def fits(path: Path) -> bool:
        head = _ends_of(path)[0]
        pictured = re.search(_PICTURE_KEY, head) is not None
        return not pictured and re.search(r'"prompt"\s*:', head) is not None if prompt else pictured

    return fits


def _has_columns(*, prompt: bool) -> Callable[[Path], bool]:
    """Ask for a table that tells of pictures, or of prompts alone, in the names of its columns."""

    def fits(path: Path) -> bool:
        first = (_ends_of(path)[0].splitlines() or [""])[0].lower()
        names = {name.strip().strip('"').strip() for name in re.split(r"[,\t]", first)}
        pictured = not names.isdisjoint(PICTURE)
        return not pictured and not names.isdisjoint(PROMPT) if prompt else pictured

    return fits


def _numbered(*, method: bool, coco: bool) -> Callable[[Path], list[Path]]:
    """Match a file of numbered captions, or a folder with such files, which is read as one."""

    def files(source: Path) -> list[Path]:
        places = numbered_files(source) if source.is_dir() else [source]
        return [source] if any(is_numbered(path, method, coco) for path in places) else []

    return files


def _flickr(source: Path) -> list[Path]:
    return _numbered(method=False, coco=False)(source) or _files(
        "captions.txt", fits=_has_columns(prompt=False)
    )(source)


def _either(*kinds: Callable[[Path], list[Path]]) -> Callable[[Path], list[Path]]:
    """Match what the first of several kinds matches."""
    return lambda source: next(filter(None, (kind(source) for kind in kinds)), [])


def _read_metadata(path: Path, pictures: Path | None = None) -> Items:
    read = read_table if path.suffix.lower() == ".csv" else read_jsonl
    return read(path, pictures)


def _lines(source: Path) -> list[Path]:
    """Match a file of text that is given by itself; in a folder such files are captions of pictures."""
    if source.is_dir() or source.suffix.lower() != ".txt":
        return []
    return [] if is_numbered(source) or _flickr(source) else [source]


PACKED = Format("packed", "manifest.json of vilg data pack", _files("manifest.json"), read_packed)
# The first that fits is taken, so the narrower stand first.
FORMATS = (
    PACKED,
    Format(
        "metadata",
        "metadata.jsonl or metadata.csv beside pictures",
        _either(_files("metadata.jsonl"), _files("metadata.csv")),
        _read_metadata,
    ),
    Format("tar", "*.tar (WebDataset, img2dataset)", _files("*.tar"), read_tar),
    Format("parquet", "*.parquet with a column image", _files("*.parquet"), read_parquet),
    Format("COCO captions", "captions_val2014.json", _json("{", "file_name", "caption"), read_coco),
    Format("AIC-ICC", "caption_*_annotations_*.json", _json("[", "image_id", "caption"), read_aic),
    Format("FM-IQA", "FM-IQA.json", _json("{", "Question", "Answer", "image_id"), read_fmiqa),
    Format("VQAv2", "*_questions.json of VQAv2", _json("{", "questions", "question_id"), read_vqa),
    Format("GQA", "*_questions.json of GQA", _json("{", "imageId", "question"), read_gqa),
    Format(
        "COCO-CN",
        "imageid.human-written-caption.txt",
        _numbered(method=False, coco=True),
        read_numbered,
    ),
    Format(
        "Flickr8k-CN", "flickr8kzhc.caption.txt", _numbered(method=True, coco=False), read_numbered
    ),
    Format("Flickr", "Flickr8k.token.txt or captions.txt", _flickr, read_flickr),
    Format("MUGE", "T2I_*.text.tsv and T2I_*.img.tsv", _files("*.text.tsv"), read_muge),
    Format(
        "prompts",
        "*.csv, *.tsv or *.jsonl with prompts, or a file *.txt",
        _either(
            _files("*.csv", "*.tsv", fits=_has_columns(prompt=True)),
            _files("*.jsonl", "*.ndjson", fits=_has_object(prompt=True)),
            _lines,
        ),
        read_prompts,
    ),
    Format(
        "JSON lines",
        "*.jsonl of objects with fields such as image and caption",
        _files("*.jsonl", "*.ndjson", fits=_has_object(prompt=False)),
        read_jsonl,
    ),
    Format(
        "table",
        "*.csv or *.tsv with columns such as image and caption",
        _files("*.csv", "*.tsv", fits=_has_columns(prompt=False)),
        read_table,
    ),
    Format(
        "folder",
        "pictures with NAME.txt or NAME.caption beside them",
        lambda source: [source] if source.is_dir() else [],
        read_folder,
    ),
)


@dataclass(frozen=True)
class Source:
    """A source whose format is known, or some of its pairs.

    Attributes:
        files: what its items are read from, in this order.
        pictures: the folder of the pictures; None for the format's own.
        only: "tag=value" each; a pair must have one of the values given for each tag.
        ids: the pairs with these ids only.
        translations: a file of `vilg data translate`, whose captions are added.
        limit: at most so many pairs, the first.
    """

    given: str
    format: Format
    files: tuple[Path, ...]
    pictures: Path | None = None
    only: tuple[str, ...] = ()
    ids: IdSet | None = None
    limit: int | None = None
    translations: Path | None = None

    @property
    def recognised(self) -> str:
        """What the source was taken for, in a line for people."""
        return f"{self.given}: read as {self.format.name} ({self.format.wants})"

    @property
    def told(self) -> str:
        """Which pairs these are, in a line."""
        chosen = [*self.only]
        if self.ids is not None:
            chosen.append(f"ids {self.ids.fingerprint}")
        if self.translations is not None:
            chosen.append(f"translations {fingerprint_of(self.translations)}")
        if self.limit is not None:
            chosen.append(f"the first {self.limit}")
        return " ".join([self.given, *chosen])

    @cached_property
    def identity(self) -> Identity:
        """Which pairs these are, for what is made from them; takes a walk when it is first asked for."""
        is_packed = self.format.read is read_packed
        return identify(self, b"".join(f.read_bytes() for f in self.files if is_packed))

    def check_outside(self, out: Path) -> None:
        """Refuse to write into a folder all of which is read (`pictures.check_outside`)."""
        for file in self.files:
            if self.format.read is read_folder:
                check_outside(file, out)

    def __iter__(self) -> Iterator[Pair | Reject]:
        wanted: dict[str, set[str]] = {}
        for condition in self.only:
            tag, _, value = condition.partition("=")
            wanted.setdefault(tag, set()).add(value)
        num_pairs, is_choice = 0, bool(self.only) or self.ids is not None
        items: Items = self._all()
        if self.translations is not None:
            items = with_translations(items, self.translations)
        for item in items:
            if isinstance(item, Pair):
                if self.ids is not None and item.id not in self.ids:
                    continue
                if any(item.tags.get(tag) not in values for tag, values in wanted.items()):
                    continue
                num_pairs += 1
            elif is_choice:
                continue  # nobody knows whether it would have been chosen
            yield item
            if num_pairs == self.limit:
                return

    def _all(self) -> Iterator[Pair | Reject]:
        forget_folders()
        for file in self.files:
            try:
                yield from self.format.read(file, self.pictures)
            except OSError as error:
                raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def source_of(pairs: Sequence[Pair], told: str) -> Source:
    """Return a source of pairs that a program has made; `told` is what they are called."""
    return Source(told, Format("made", "", lambda path: [path], lambda *_: pairs), (Path(told),))


def load_pairs(folder: Path, split: str | None = None, only: tuple[str, ...] = ()) -> list[Pair]:
    """Return the pairs of a packed data set, or of a split of it, sorted by id.

    Args:
        only: as `Source` has it.

    Raises:
        DataError: no data set there, no such split, or shards that are not as they were written.
    """
    source = Source(str(folder), PACKED, (folder / "manifest.json",), only=only)
    pairs = [item for item in source if isinstance(item, Pair)]
    check_distinct([pair.id for pair in pairs], str(folder))
    if split is not None:
        ids = set(load_split(folder, split))
        pairs = [pair for pair in pairs if pair.id in ids]
    return sorted(pairs, key=lambda pair: pair.id)


def no_pair(source: Source, num_rejects: int) -> DataError:
    """Return what to say where a source holds no pair at all."""
    others = f" among {num_rejects} items" if num_rejects else ""
    return DataError(
        f"{source.given} holds no pair{others}; read as {source.format.name}: {source.format.wants}"
    )


def open_source(
    given: str,
    name: str | None = None,
    pictures: Path | None = None,
    *,
    only: tuple[str, ...] = (),
    split: str | None = None,
    ids: Path | None = None,
    limit: int | None = None,
    translations: Path | None = None,
) -> Source:
    """Recognise a source.

    Args:
        given: a folder, a file, or a glob.
        name: of the format, where it should not be guessed; files are then taken for that unseen.
        pictures: the folder that pictures lie in or below.
        only, limit, translations: as `Source` has them.
        split: of a packed data set.
        ids: a list of them, an id a line.

    Raises:
        DataError: nothing is there, or nothing that any format knows; says what was looked for.
    """
    if pictures is not None and not pictures.is_dir():
        raise DataError(f"{pictures} is not a folder of pictures")
    known = [format for format in FORMATS if name is None or format.name == name]
    if not known:
        names = ", ".join(dict.fromkeys(format.name for format in FORMATS))
        raise DataError(f"no format is called {name!r}; there are {names}")
    try:
        source = _open_source(given, known, name is not None, pictures)
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise DataError(f"cannot read {given}: {error.strerror or error}") from error
    chosen = split_of(Path(given), split) if split is not None else None
    if ids is not None:
        chosen = read_ids(ids) if chosen is None else chosen & read_ids(ids)
    return replace(source, only=only, ids=chosen, limit=limit, translations=translations)


def _open_source(given: str, known: list[Format], is_told: bool, pictures: Path | None) -> Source:
    path = Path(given)
    places = (
        [path]
        if path.exists()
        else [Path(found) for found in sorted(glob.glob(given, recursive=True))]
    )
    if not places:
        raise DataError(f"{given} is not there: give a folder, a file or a glob of files")
    if is_told and all(place.is_file() for place in places):
        return Source(given, known[0], tuple(places), pictures)
    for format in known:
        found = [format.files(place) for place in places]
        if all(found):
            files = tuple(file for some in found for file in some)
            return Source(given, format, files, pictures)
    wanted = "; ".join(dict.fromkeys(format.wants for format in known))
    raise DataError(f"{given} holds nothing that is known as pairs; looked for: {wanted}")
