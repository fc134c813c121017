"""Pairs of any source become a data set of shards (`data/shards.py`), by any number of workers."""

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vilg.data.pairs import DataError, Pair, Question, Reject
from vilg.data.parts import (
    ITEMS,
    LeftOut,
    Work,
    Worker,
    check_share,
    id_hashes,
    left_out_of,
    num_parts,
    second_of_one_id,
)
from vilg.data.shards import PICTURE_SUFFIXES, suffix_of
from vilg.data.sources import Source, no_pair
from vilg.data.store import file_hash
from vilg.errors import VilgError
from vilg.files import open_whole, write_whole


def pack(
    source: Source,
    out: Path,
    name: str,
    *,
    max_rejects: float = 0.1,
    worker: Worker | None = None,
) -> bool:
    """Write a source as shards; return whether the data set is whole, or other workers are still at it.

    Item i of the source is KEY = i in shard i // 1000: two files, the picture's bytes as they are and
    KEY.json. Parts that are there already are kept, so that the same command goes on after a kill.
    The worker who finds all of them there writes the manifest.

    Args:
        name: of the data set; its shards are called after it.
        max_rejects: share of the pairs that may be left out.

    Raises:
        DataError: too much was left out, or the folder or the parts in it were made from something else.
    """
    if not name or name != name.strip() or any(c < " " or c in "/\x7f" for c in name):
        raise DataError(f"{name!r} cannot be the name of a data set: leave out slashes and spaces")
    if out.exists() and Path(source.given).exists() and out.samefile(source.given):
        raise DataError(f"{out} is what is read: name another folder for the data set")
    identity = source.identity
    if identity.pairs == 0:
        raise no_pair(source, identity.items)
    made_from = {"name": name, "items": identity.items, "source_sha256": identity.sha256}
    work = Work(
        whole=out / "manifest.json",
        parts=out / "parts",
        suffix=".json",
        made_from=made_from,
        others="other pairs",
        what="shards",
    )
    if work.whole.exists():
        _check_same(out, made_from)
    made = _Parts(out, name, num_parts(identity.items))
    return work.run(
        source,
        worker or Worker(),
        lambda number, items: made[number].write(items),
        lambda _: _join(made, out, made_from, max_rejects),
    )


def packed(out: Path) -> tuple[int, int]:
    """Return how many pairs a data set has, and how many were left out of it."""
    manifest = json.loads((out / "manifest.json").read_bytes())
    return manifest["samples"], manifest["left_out"]


def _json_of(pair: Pair) -> bytes:
    fields = {
        "id": pair.id,
        "captions": dict(pair.captions),
        "prompts": dict(pair.prompts),
        "questions": [_question_fields(question) for question in pair.questions],
        "tags": dict(pair.tags),
    }
    try:
        return json.dumps(fields, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # half characters come back from escapes only
        return json.dumps(fields).encode("ascii")


def _question_fields(question: Question) -> dict[str, Any]:
    fields = asdict(question)
    return fields if question.id else {name: fields[name] for name in fields if name != "id"}


def _check_same(out: Path, made_from: dict[str, Any]) -> None:
    manifest = json.loads((out / "manifest.json").read_bytes())
    if not isinstance(manifest, dict) or any(
        manifest.get(name) != value for name, value in made_from.items()
    ):
        raise DataError(f"{out} holds another data set: name another folder, or remove it first")


class _Part:
    """A part: a shard, which lies among the parts until all are there, and notes of what is in it."""

    def __init__(self, out: Path, name: str, number: int):
        self.notes = out / "parts" / f"{number:08d}.json"
        self.shard = out / "shards" / f"{name}-{number:08d}.tar"
        self._raw = out / "parts" / f"{number:08d}.tar"
        self._first = number * ITEMS

    def write(self, items: Sequence[Pair | Reject]) -> str:
        """Write the items of this part; return its notes, which are written when the shard is there."""
        left_out: list[LeftOut] = []
        kept: list[tuple[str, str, str]] = []
        with open_whole(self._raw) as file, _archive(file) as archive:
            for i, item in enumerate(items, self._first):
                left_out += left_out_of(item)
                if isinstance(item, Reject):
                    continue
                try:
                    picture, suffix = _picture_of(item)
                except DataError as error:
                    left_out.append(LeftOut(item.place, item.id, str(error)))
                    continue
                key = f"{i:012d}"
                add_member(archive, f"{key}.{suffix}", picture)
                add_member(archive, f"{key}.json", _json_of(item))
                kept.append((key, item.id, item.place))
        sha256, others = file_hash(self._raw), [vars(item) for item in left_out]
        return json.dumps({"sha256": sha256, "kept": kept, "left_out": others})

    def read_notes(self) -> tuple[list[list[str]], list[LeftOut], str]:
        """Return keys, ids and places of the pairs, what was left out, and the hash of the shard."""
        notes: dict[str, Any] = json.loads(self.notes.read_bytes())
        return notes["kept"], [LeftOut(**item) for item in notes["left_out"]], notes["sha256"]

    def put(self, without: Collection[str]) -> None:
        """Put the shard in its place without some keys, unless it is there and the part is not."""
        try:
            if without:
                self._write_without(without)
            else:
                self._raw.replace(self.shard)
        except FileNotFoundError:
            if not self.shard.exists():
                raise

    def _write_without(self, keys: Collection[str]) -> None:
        with open_whole(self.shard, self._raw.parent) as file, _archive(file) as archive:
            for header, content in _members(self._raw):
                if header.name.partition(".")[0] not in keys:
                    add_member(archive, header.name, content)


@dataclass(frozen=True)
class _Parts:
    """All parts of a data set, none of them held in memory."""

    out: Path
    name: str
    number: int

    def __getitem__(self, number: int) -> _Part:
        return _Part(self.out, self.name, number)

    def __iter__(self) -> Iterator[_Part]:
        return (self[number] for number in range(self.number))


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file whose owner, mode and time are fixed."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def _archive(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path, "r:") as archive:
        for header in archive:
            content = archive.extractfile(header)
            assert content is not None
            yield header, content.read()


def _picture_of(pair: Pair) -> tuple[bytes, str]:
    """Return the bytes of a pair's picture, and their suffix."""
    if pair.picture is None:
        raise DataError("no picture")
    try:
        picture = pair.picture()
    except OSError as error:
        raise DataError(f"the picture cannot be read: {error.strerror or error}") from error
    except VilgError as error:
        raise DataError(str(error)) from error
    suffix = suffix_of(picture)
    if suffix is None:
        raise DataError(f"the picture is none of {', '.join(PICTURE_SUFFIXES)}")
    return picture, suffix


def _join(made: _Parts, out: Path, made_from: dict[str, Any], max_rejects: float) -> None:
    """Put all shards in place; of two pairs of one id the first one stays."""
    parts = out / "parts"
    hashes = [id_hashes(id for _, id, _ in part.read_notes()[0]) for part in made]
    second = set(second_of_one_id(np.concatenate([np.empty(0, np.uint64), *hashes])).tolist())
    rejects, num_left_out = out / "rejects.jsonl", 0
    again: dict[int, list[str]] = {}
    first = 0
    with open_whole(rejects, parts) as file:
        for number, part in enumerate(made):
            kept, left_out, _ = part.read_notes()
            seconds = [kept[i] for i in range(len(kept)) if first + i in second]
            first += len(kept)
            if seconds:
                again[number] = [key for key, _, _ in seconds]
            left_out += [
                LeftOut(place, id, "an earlier pair has this id") for _, id, place in seconds
            ]
            file.writelines(item.line().encode("utf-8", "backslashreplace") for item in left_out)
            num_left_out += sum(item.is_pair for item in left_out)
    num_items = made_from["items"]
    check_share(num_left_out, num_items, max_rejects, rejects)
    (out / "shards").mkdir(exist_ok=True)
    shards, content = [], hashlib.sha256()
    for number, part in enumerate(made):
        kept, _, sha256 = part.read_notes()
        without = again.get(number, [])
        part.put(without)
        sha256 = file_hash(part.shard) if without else sha256
        content.update(f"{sha256}\n".encode())
        num_samples = len(kept) - len(without)
        shards.append({"file": part.shard.name, "samples": num_samples, "sha256": sha256})
    manifest = made_from | {
        "samples": num_items - num_left_out,
        "left_out": num_left_out,
        "content_sha256": content.hexdigest(),
        "shards": shards,
    }
    # Written last: a folder without it is not a data set.
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_whole(out / "manifest.json", text, parts)
