"""Which samples a step sees: a pure function of (seed, step), whatever the world size.

Each epoch visits every sample once, in an order given by a keyed bijection (a Feistel network with
cycle walking), so that order costs no memory, seeks in constant time and resumes from one integer.
"""

import numpy as np
from numpy.typing import NDArray

from vilg.randomness import bits

_ROUNDS = 4  # Luby and Rackoff 1988: four rounds make a strong pseudo-random permutation


def _feistel(x: NDArray[np.uint64], half_bits: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    low_mask = np.uint64((1 << half_bits) - 1)
    left, right = x >> np.uint64(half_bits), x & low_mask
    for i in range(_ROUNDS):
        left, right = right, left ^ (bits(seed, "order", epoch, i, right) & low_mask)
    return (left << np.uint64(half_bits)) | right


def permute(positions: NDArray[np.int64], num: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Map positions in [0, num) to samples in [0, num), one to one."""
    half_bits = max(1, -(-(num - 1).bit_length() // 2))
    x = _feistel(positions.astype(np.uint64), half_bits, seed, epoch)
    # The network permutes the next power of four: walk on until inside [0, num), under 4 tries
    # on average.
    while (outside := x >= num).any():
        x[outside] = _feistel(x[outside], half_bits, seed, epoch)
    return x.astype(np.int64)


def batch_ids(seed: int, step: int, batch_size: int, num: int) -> NDArray[np.int64]:
    """Return the samples of a global batch; steps count from 0, a batch may straddle epochs.

    A rank of W takes `[rank::W]` of it, so any world size that divides the batch sees the same
    global batches.
    """
    assert num > 0 and batch_size > 0
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    ids = np.empty_like(positions)
    for epoch in np.unique(positions // num):
        here = positions // num == epoch
        ids[here] = permute(positions[here] % num, num, seed, int(epoch))
    return ids
