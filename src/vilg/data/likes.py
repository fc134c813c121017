"""Pictures that look alike: 64 bits of a picture's looks, and who has nearly those of an earlier one.

Shape letters: S pictures, Y X pixels.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_BITS = 7  # more and nothing is cheap any longer: see `near_an_earlier`
_BLOCK = 2**11


def looks_of(picture: Image.Image) -> int:
    """Return a picture's difference hash (dHash): of 9 x 8 grey pixels, which are darker than the next.

    It stays nearly the same under another size, quality or brightness, not under a turn, a mirror or
    another crop. A picture of one colour has 0.
    """
    grey_YX = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    bits = np.packbits(grey_YX[:, 1:] > grey_YX[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def near_an_earlier(looks_S: NDArray[np.uint64], most: int) -> NDArray[np.bool_]:
    """Return which pictures differ in at most so many bits from any earlier one.

    Two that differ in at most k bits are equal in one of k + 1 stretches of their bits, so that only
    those who share a stretch are compared.
    """
    assert 0 <= most <= MOST_BITS
    values, first, which_S = np.unique(looks_S, return_index=True, return_inverse=True)
    is_near_S = first[which_S] < np.arange(len(looks_S))
    if most == 0:
        return is_near_S
    is_near = np.zeros(len(values), bool)
    ends = np.linspace(0, 64, most + 2).astype(np.uint64)
    for low, high in pairwise(ends):
        stretch = (values >> low) & ((np.uint64(1) << (high - low)) - np.uint64(1))
        order = np.argsort(stretch, kind="stable")
        starts = np.flatnonzero(np.diff(stretch[order])) + 1
        for group in np.split(order, starts):
            if len(group) > 1:
                _compare(values, first, group, most, is_near)
    is_near_S[first[is_near]] = True
    return is_near_S


def _compare(
    values: NDArray[np.uint64],
    first: NDArray[np.int64],
    group: NDArray[np.int64],
    most: int,
    is_near: NDArray[np.bool_],
) -> None:
    """Mark the members of a group that are near one who came earlier."""
    for top in range(0, len(group), _BLOCK):
        rows = group[top : top + _BLOCK]
        for left in range(0, len(group), _BLOCK):
            columns = group[left : left + _BLOCK]
            bits = np.bitwise_count(values[rows, None] ^ values[None, columns])
            is_earlier = first[None, columns] < first[rows, None]
            is_near[rows] |= ((bits <= most) & is_earlier).any(axis=1)
