"""Long work over a source in parts: each is made once, by whoever it falls to, and is there whole or not.

Item i of the source belongs to part i // ITEMS, and part k to worker k mod W, so that what is made is
the same for any number of workers on any machines, and what is there when a worker begins is done.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilg.data.ids import hash_of
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.sources import Source
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


@dataclass(frozen=True, kw_only=True)
class Work:
    """A result that is made in parts.

    Attributes:
        whole: the file of the result that is written last.
        parts: the folder of the parts, which goes once the result is whole.
        suffix: of a part's file.
        made_from: what decides the result.
        others: what people call anything else that parts were made from.
        what: is made, as progress says it.
    """

    whole: Path
    parts: Path
    suffix: str
    made_from: Mapping[str, Any]
    others: str
    what: str

    def run(
        self,
        source: Source,
        worker: Worker,
        make: Callable[[int, Sequence[Pair | Reject]], bytes | str],
        join: Callable[[Sequence[Path]], None],
    ) -> bool:
        """Make this worker's parts, and join all if they are there; return whether the result is whole.

        Several workers may find all parts there, and join them at once: whatever `join` writes must be the
        same, whoever else has done half of it, and `whole` comes last. Once that is there, parts may be gone.

        Args:
            make: returns the file of a part.
            join: is given all such files.

        Raises:
            DataError: the folder has parts of `others`.
        """
        if not self.whole.exists():
            try:
                self._run(source, worker, make, join)
            except (
                FileNotFoundError,
                FileExistsError,
            ):  # the latter of a folder that is gone again
                if not self.whole.exists():
                    raise
                # Another worker has joined the parts meanwhile, and removed them.
        if not self.whole.exists():
            return False
        # Others may do so at the same time; who has written into it since will remove that at its own end.
        shutil.rmtree(self.parts, ignore_errors=True)
        return True

    def _run(
        self,
        source: Source,
        worker: Worker,
        make: Callable[[int, Sequence[Pair | Reject]], bytes | str],
        join: Callable[[Sequence[Path]], None],
    ) -> None:
        self._pin()
        num_items = source.identity.items
        paths = [self.parts / f"{i:08d}{self.suffix}" for i in range(num_parts(num_items))]

        def is_done(number: int) -> bool:
            return paths[number].exists() or self.whole.exists()

        for number, items in own_parts(source, worker, is_done, num_items, self.what):
            write_whole(paths[number], make(number, items))
        if not self.whole.exists() and all(path.exists() for path in paths):
            join(paths)

    def _pin(self) -> None:
        """Note what the parts are made from; refuse parts of anything else."""
        path, text = self.parts / "made_from.json", json.dumps(self.made_from, ensure_ascii=False)
        self.parts.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() != text.encode():
            raise DataError(f"{self.parts} holds parts of {self.others}: remove it first")
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


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Return `hash_of` each id."""
    return np.array([hash_of(id) for id in ids], np.uint64)


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
