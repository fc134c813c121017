"""Lists of ids: a text file, an id a line, which says which pairs of a source are meant."""

import hashlib
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilg.data.pairs import DataError


def hash_of(id: str) -> int:
    """Return 64 bits of an id's hash, which stand for it where there may be millions."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


class IdSet:
    """Some ids, of which it says whether one is among them; takes 8 bytes an id.

    Two ids of 64 equal bits of hash are taken for one another: a chance of 1 in 2,000 that it happens to
    any of 145 million.
    """

    def __init__(self, ids: Iterable[str]):
        hashes = np.array(array("Q", map(hash_of, ids)), np.uint64)
        self._hashes: NDArray[np.uint64] = np.unique(hashes)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._hashes.tobytes()).hexdigest()[:16]

    def __and__(self, other: "IdSet") -> "IdSet":
        both = IdSet(())
        both._hashes = np.intersect1d(self._hashes, other._hashes, assume_unique=True)
        return both

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, id: object) -> bool:
        if not isinstance(id, str):
            return False
        wanted = np.uint64(hash_of(id))
        place = int(np.searchsorted(self._hashes, wanted))
        return place < len(self._hashes) and bool(self._hashes[place] == wanted)


def read_ids(path: Path) -> IdSet:
    """Read a list of ids; an empty line is none.

    Raises:
        DataError: the file is not there, or no UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return IdSet(line.removesuffix("\n") for line in file if line.strip())
    except OSError as error:
        raise DataError(f"cannot read the ids in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8: write an id a line as UTF-8") from error
