"""Reads a data set of tar shards: its manifest, its splits, and what lies in a shard.

A folder holds `manifest.json`, `shards/*.tar` and, where there are any, `splits/NAME.txt`. A pair is two
neighbouring members of a shard, KEY.webp (or .png, .jpg, .gif, .bmp) and KEY.json (`readers/packed.py`).
Apart from the readers of other people's formats because nothing here is forgiven: our own files are either
as they were written or an error that names the file and the member.
"""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vilg.data.pairs import DataError as DataError

FieldT = TypeVar("FieldT")

# How the pictures in a shard begin, by the suffix of their names.
_HEADS = {"webp": b"RIFF", "png": b"\x89PNG", "jpg": b"\xff\xd8\xff", "gif": b"GIF8", "bmp": b"BM"}
PICTURE_SUFFIXES = tuple(_HEADS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A picture in a shard, which is not read yet, and the JSON beside it.

    Attributes:
        offset, size: of the picture's bytes in the shard.
        where: shard and name, for errors.
    """

    key: str
    text: bytes
    offset: int
    size: int
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    path: Path
    sha256: str
    num_samples: int


def load_split(folder: Path, split: str) -> tuple[str, ...]:
    """Return the ids of one split, in the file's order."""
    known = list_splits(folder)
    if split not in known:
        raise DataError(
            f"{folder}: no split is called {split!r}; the splits are {', '.join(known) or 'none'}"
        )
    path = _split_path(folder, split)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    ids = tuple(line.strip() for line in lines if line.strip())
    check_distinct(ids, str(path))
    return ids


def check_distinct(ids: Sequence[str], where: str) -> None:
    """Refuse ids of which one occurs twice."""
    for id, number in Counter(ids).items():
        if number > 1:
            raise DataError(f"{where}: the id {id} occurs twice")


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits that a data set has."""
    return sorted(path.stem for path in (folder / "splits").glob("*.txt"))


def fingerprint(folder: Path) -> str:
    """Return the hash of all content, as the manifest states it.

    `vilg data pack` hashes the shards; the emoji's is of ids, decoded pixels and captions, and stays the same
    however their files are packed.
    """
    content_sha256, _ = read_manifest(folder)
    return content_sha256


def _split_path(folder: Path, split: str) -> Path:
    return folder / "splits" / f"{split}.txt"


def read_manifest(folder: Path) -> tuple[str, list[Shard]]:
    """Return the hash of all content, and the shards."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise DataError(
            f"{folder} is not a data set: there is no manifest.json in it; give the folder of one, "
            "such as datasets/emoji in a clone of vilg"
        )
    content = parse_json(path.read_bytes(), str(path))
    shards = [
        Shard(
            path=folder / "shards" / _file_name(shard, str(path)),
            sha256=_field(shard, "sha256", str, str(path)),
            num_samples=_field(shard, "samples", int, str(path)),
        )
        for shard in _field(content, "shards", list, str(path))
    ]
    return _field(content, "content_sha256", str, str(path)), shards


@lru_cache(maxsize=2**16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Return the hash of a file in this state; whoever walks a data set again does not read it again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_members(shard: Shard) -> Iterator[Member]:
    """Check a shard against the manifest, then yield what lies in it; no picture is read."""
    if not shard.path.is_file():
        raise DataError(f"{shard.path} is missing, but manifest.json lists it; fetch it again")
    with shard.path.open("rb") as file:
        state = shard.path.stat()
        found = _sha256(shard.path, state.st_size, state.st_mtime_ns)
        if found != shard.sha256:
            raise DataError(
                f"{shard.path} is damaged or of another version: its sha256 is {found}, "
                f"manifest.json says {shard.sha256}; fetch it again"
            )
        headers = _headers(shard.path)
        keys = dict.fromkeys(name.rpartition(".")[0] for name in headers)
        if len(keys) != shard.num_samples:
            # A tar cut between two members still reads as a tar.
            raise DataError(
                f"{shard.path} is truncated: it has {len(keys)} samples, manifest.json says"
                f" {shard.num_samples}"
            )
        for key in keys:
            pictures = [
                f"{key}.{suffix}" for suffix in PICTURE_SUFFIXES if f"{key}.{suffix}" in headers
            ]
            if f"{key}.json" not in headers:
                raise DataError(f"{shard.path}: {pictures[0]} has no {key}.json beside it")
            if len(pictures) != 1:
                raise DataError(
                    f"{shard.path}: {key}.json has {len(pictures)} pictures beside it, expected one"
                    f" of {', '.join(PICTURE_SUFFIXES)}"
                )
            text, picture = headers[f"{key}.json"], headers[pictures[0]]
            yield Member(
                key=key,
                text=_part_of(file, text.offset_data, text.size),
                offset=picture.offset_data,
                size=picture.size,
                where=f"{shard.path}: {key}.json",
            )


def suffix_of(picture: bytes) -> str | None:
    """Tell a picture's format by its first bytes; None for one that no shard may hold."""
    return next((suffix for suffix, head in _HEADS.items() if picture.startswith(head)), None)


def _part_of(file: BinaryIO, offset: int, size: int) -> bytes:
    # extractfile costs ten times as much per member.
    file.seek(offset)
    return file.read(size)


def _headers(path: Path) -> dict[str, tarfile.TarInfo]:
    """Return the files of a tar archive by name."""
    headers: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            found = archive.getmembers()
    except tarfile.TarError as error:
        raise DataError(f"{path} is truncated or not a tar archive: {error}") from error
    for header in found:
        suffix = header.name.rpartition(".")[2]
        if not header.isreg() or suffix not in (*PICTURE_SUFFIXES, "json"):
            raise DataError(f"{path}: {header.name} is neither a picture nor a JSON file")
        if header.name in headers:
            raise DataError(f"{path}: {header.name} occurs twice")
        headers[header.name] = header
    return headers


def parse_json(text: bytes, where: str) -> Any:
    """Read JSON that must be whole."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # bad UTF-8, or brackets in brackets
        raise DataError(f"{where} is not valid JSON: {error}") from error


def _field(fields: Any, name: str, kind: type[FieldT], where: str) -> FieldT:
    """Return a field that must be there and of one kind."""
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(fields).__name__}")
    if name not in fields:
        raise DataError(f"{where}: the field {name!r} is missing")
    value = fields[name]
    if not isinstance(value, kind):
        raise DataError(
            f"{where}: the field {name!r} must be {kind.__name__}, found {type(value).__name__}"
        )
    return value


def _file_name(shard: Any, where: str) -> str:
    """Return the name of a shard's file; no path, since a data set may come from anybody."""
    name = _field(shard, "file", str, where)
    if Path(name).name != name:
        raise DataError(f"{where}: {name!r} names no file in the folder shards")
    return name


def text_field(fields: Any, name: str, where: str) -> str:
    """Return a text that must be there."""
    return _field(fields, name, str, where)


def list_field(fields: Any, name: str, where: str) -> list[Any]:
    """Return a list that must be there."""
    return _field(fields, name, list, where)


def texts_field(fields: Any, name: str, where: str) -> tuple[str, ...]:
    """Return a list of texts that must be there."""
    texts = list_field(fields, name, where)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: {name} must be a list of texts")
    return tuple(texts)


def texts_by_language(fields: Any, name: str, where: str) -> dict[str, tuple[str, ...]]:
    """Return lists of texts that must be there, by language."""
    by_language = _field(fields, name, dict, where)
    for texts in by_language.values():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: {name} must be a list of texts a language")
    return {language: tuple(texts) for language, texts in by_language.items()}
