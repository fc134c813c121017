"""Random numbers as arithmetic: a pure function of (seed, purpose, counters).

Nothing here has a state that a checkpoint would have to carry. The same sample at the same step
draws the same numbers whatever the batch, the number of workers or the world size is
(docs/lab/decisions/0001).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Constants of the SplitMix64 generator (Steele, Lea, Flood 2014, figure 16).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def bits(seed: int, purpose: str, *counters: ArrayLike) -> NDArray[np.uint64]:
    """Return 64 random bits for each combination of the broadcast counters.

    Args:
        seed: Any integer.
        purpose: Names the random choice ("crop", "caption"); two purposes never share numbers.
        counters: Non-negative integers or arrays of them, such as the step and the sample id.
    """
    name = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    state = np.array([int.from_bytes(name, "little")], dtype=np.uint64)
    for counter in counters:
        # At least one-dimensional: NumPy wraps arrays silently but warns about scalars.
        steps = np.atleast_1d(counter).astype(np.uint64) + np.uint64(1)
        state = _mix(state + _GOLDEN * steps)
    return state.reshape(np.broadcast_shapes(*(np.shape(counter) for counter in counters)))


def uniforms(seed: int, purpose: str, *counters: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1) for each combination of the broadcast counters."""
    return (bits(seed, purpose, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(seed: int, purpose: str, high: ArrayLike, *counters: ArrayLike) -> NDArray[np.int64]:
    """Return integers in [0, high) for each combination of the broadcast counters."""
    return np.floor(uniforms(seed, purpose, *counters) * np.asarray(high)).astype(np.int64)


def shuffle_within(kinds: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
    """Permute within each kind so that nothing stays where it is.

    The members of a kind stand in a ring, in an order that the seed decides, and each is given its
    neighbour. The only one of its kind has none and is left out.

    Returns:
        positions, ascending, and for each of them the position it is given.
    """
    given: dict[int, int] = {}
    for kind in sorted(set(kinds)):
        members = np.array([i for i, other in enumerate(kinds) if other == kind])
        ring = members[np.argsort(uniforms(seed, "shuffled pairs", members), kind="stable")]
        if len(ring) > 1:
            given.update(zip(ring.tolist(), np.roll(ring, -1).tolist(), strict=True))
    positions = sorted(given)
    return positions, [given[i] for i in positions]
