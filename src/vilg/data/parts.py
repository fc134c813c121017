"""Long work over a source in parts: each is made once, by whoever it falls to, and is there whole or not.

Item i of the source belongs to part i // ITEMS, and part k to worker k mod W, so that what is made is
the same for any number of workers on any machines, and what is there when a worker begins is done.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilg.data.ids import hash_of
from vilg.data.pairs import DataError, Pair, Reject
from vilg.files import write_whole
from vilg.progress import Progress

ITEMS = 1000  # a few seconds' work, which is what a kill costs


@dataclass(frozen=True)
class Worker:
    """One of several that share a source."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class LeftOut:
    """What did not get into the result: a whole pair, or a text of one."""

    place: str
    id: str | None
    reason: str
    is_pair: bool = True

    def line(self) -> str:
        what = "pair" if self.is_pair else "text"
        fields = {"place": self.place, "id": self.id, "reason": self.reason, "left_out": what}
        line = json.dumps(fields, ensure_ascii=False) + "\n"
        # A file's name may be no UTF-8; what Python escapes it by is JSON too.
        return line.encode("utf-8", "backslashreplace").decode()


def left_out_of(item: Pair | Reject) -> list[LeftOut]:
    """Return what a reader left out: the item itself, or texts of a pair."""
    if isinstance(item, Reject):
        return [LeftOut(item.place, item.id, item.reason)]
    return [LeftOut(item.place, item.id, fault, is_pair=False) for fault in item.faults]


def pin(parts: Path, made_from: Mapping[str, str | int], others: str) -> None:
    """Note what parts are made from; refuse parts of other ones.

    Raises:
        DataError: the folder has parts of `others`.
    """
    path, text = parts / "made_from.json", json.dumps(made_from, ensure_ascii=False)
    if path.exists() and path.read_bytes() != text.encode():
        raise DataError(f"{parts} holds parts of {others}: remove it first")
    parts.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def own_parts(
    items: Iterable[Pair | Reject],
    worker: Worker,
    is_done: Callable[[int], bool],
    num_items: int,
    what: str,
) -> Iterator[tuple[int, list[Pair | Reject]]]:
    """Yield the number and the items of each part that is this worker's and not done yet."""
    walking = iter(items)
    with Progress("pairs", what=what) as progress:
        for number in range(num_parts(num_items)):
            part = list(islice(walking, ITEMS))
            if number % worker.world == worker.rank and not is_done(number):
                yield number, part
            progress(min((number + 1) * ITEMS, num_items), num_items)


def num_parts(num_items: int) -> int:
    return -(-num_items // ITEMS)


def count(items: Iterable[Pair | Reject]) -> int:
    """Return how many items there are; reads no picture."""
    return sum(1 for _ in items)


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Return `hash_of` each id."""
    return np.array([hash_of(id) for id in ids], np.uint64)


def identify(items: Iterable[Pair | Reject]) -> tuple[int, str]:
    """Return how many items there are, and a hash of all that they say; reads no picture."""
    number, digest = 0, hashlib.sha256()
    for item in items:
        number += 1
        said: tuple[object, ...] = (item.place, item.id)
        if isinstance(item, Pair):
            said += (
                item.picture is None,
                list(item.captions.items()),
                list(item.prompts.items()),
                item.questions,
                item.faults,
            )
        digest.update(repr(said).encode())
    return number, digest.hexdigest()


def second_of_one_id(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return which rows have the same id as a row before, given their `id_hashes`."""
    found = [np.empty(0, np.int64)]
    top = hashes.astype("<u8", copy=False).view(np.uint8)[7::8] // 16
    for bucket in range(16):  # one after another, since sorting takes five times the memory
        rows = np.flatnonzero(top == bucket)
        order = rows[np.argsort(hashes[rows], kind="stable")]
        found.append(order[1:][hashes[order][1:] == hashes[order][:-1]])
    return np.sort(np.concatenate(found))


def check_share(left_out: int, num_items: int, most: float, where: Path) -> None:
    """Refuse a result of which too much is missing.

    Raises:
        DataError: more than this share of the pairs was left out.
    """
    if left_out > most * num_items:
        raise DataError(
            f"{left_out} of {num_items} pairs were left out, more than {100 * most:g}%: vilg data check "
            f"says why ({where} has each), or allow more with --max-rejects (of a training: "
            "--set generator.data.max_rejects=...)"
        )
