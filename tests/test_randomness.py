"""Random numbers as arithmetic: pinned for good, even, and unrelated to each other."""

import hashlib
import warnings

import numpy as np
import pytest

from vilg.randomness import bits, integers, uniforms

MANY = 40_000


def split_mix(seed: int, purpose: str, *counters: int) -> int:
    """Compute the numbers with Python's own integers (Steele, Lea, Flood 2014, figure 16)."""
    wrap = 2**64
    name = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    z = int.from_bytes(name, "little")
    for counter in counters:
        z = (z + 0x9E3779B97F4A7C15 * (counter + 1)) % wrap
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % wrap
        z = z ^ (z >> 31)
    return z


@pytest.mark.parametrize(
    ("seed", "purpose", "counters"),
    [
        (0, "draw", (0,)),
        (1, "draw", (0,)),
        (0, "crop", (12, 34)),
        (-5, "caption", (1, 2, 3)),
        (2**70, "order", (2**40, 7)),
        (0, "none", ()),
        (3, "名", (2**63 - 1,)),
    ],
)
def test_bits_are_split_mix(seed: int, purpose: str, counters: tuple[int, ...]) -> None:
    assert int(bits(seed, purpose, *counters)) == split_mix(seed, purpose, *counters)


def test_numbers_are_pinned() -> None:
    """Runs resume and pictures come back by these. Another value here breaks everybody's."""
    assert int(bits(0, "draw", 0)) == 2585764150885933951
    assert int(bits(7, "caption", 3, 11)) == 5047983894021318484
    assert uniforms(0, "draw", np.arange(4)).tolist() == [
        0.14017455549628322,
        0.9147651740436091,
        0.5802012890622965,
        0.623670255330197,
    ]
    assert integers(42, "crop", 100, np.arange(8), 5).tolist() == [13, 49, 69, 89, 51, 27, 26, 15]


def test_shapes_broadcast() -> None:
    table = bits(1, "t", np.arange(3)[:, None], np.arange(4))
    assert table.shape == (3, 4)
    assert table.dtype == np.uint64
    for i in range(3):
        for j in range(4):
            assert table[i, j] == bits(1, "t", i, j)
    assert bits(1, "t", 2).shape == ()
    assert bits(1, "t").shape == ()
    assert bits(1, "t", [4, 5]).shape == (2,)
    assert bits(1, "t", np.empty(0, dtype=np.int64)).shape == (0,)
    assert uniforms(1, "t", np.arange(3)[:, None], np.arange(4)).shape == (3, 4)
    assert integers(1, "t", [10, 20, 30], 7, np.arange(3)).shape == (3,)


def test_any_kind_of_integer_is_the_same_counter() -> None:
    expected = bits(1, "t", 5)
    for counter in (np.int64(5), np.uint16(5), np.array(5), np.array([5], dtype=np.int32)):
        assert np.all(bits(1, "t", counter) == expected)


def test_no_warnings_even_where_sums_wrap() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for counters in ((), (0,), (2**62,), (2**63, 2**64 - 2), (np.uint64(2**63),)):
            bits(2**80, "t", *counters)
            uniforms(-1, "t", *counters)
        integers(0, "t", 5, 3)


def test_uniforms_are_the_top_53_bits_and_fill_the_unit_interval() -> None:
    numbers = uniforms(0, "t", np.arange(MANY))
    assert numbers.dtype == np.float64
    assert numbers.tolist() == [int(b) // 2**11 / 2**53 for b in bits(0, "t", np.arange(MANY))]
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1


def chi_square(counts: np.ndarray) -> float:
    """Return the deviation from evenness in its standard deviations."""
    expected = counts.sum() / counts.size
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = counts.size - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("seed", [0, 1, 2**33])
def test_uniforms_are_even(seed: int) -> None:
    numbers = uniforms(seed, "t", np.arange(MANY))
    assert abs(chi_square(np.histogram(numbers, bins=100, range=(0, 1))[0])) < 4


def test_every_bit_is_set_half_of_the_time() -> None:
    drawn = bits(0, "t", np.arange(MANY))
    ones = [int(((drawn >> np.uint64(i)) & np.uint64(1)).sum()) for i in range(64)]
    assert all(abs(count / MANY - 0.5) < 4.5 * 0.5 / MANY**0.5 for count in ones)


def pair_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return two series of numbers that differ in one respect only."""
    steps = np.arange(MANY)
    series = {
        "purposes": (uniforms(0, "a", steps), uniforms(0, "b", steps)),
        "seeds": (uniforms(0, "a", steps), uniforms(1, "a", steps)),
        "neighbours": (uniforms(0, "a", steps), uniforms(0, "a", steps + 1)),
        "other counters": (uniforms(0, "a", steps, 0), uniforms(0, "a", steps, 1)),
        "order of counters": (uniforms(0, "a", steps, 7), uniforms(0, "a", 7, steps)),
        "number of counters": (uniforms(0, "a", steps), uniforms(0, "a", steps, 0)),
    }
    return series[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "purposes",
        "seeds",
        "neighbours",
        "other counters",
        "order of counters",
        "number of counters",
    ],
)
def test_pairs_are_independent(kind: str) -> None:
    first, second = pair_of(kind)
    cells, _, _ = np.histogram2d(first, second, bins=16, range=((0, 1), (0, 1)))
    assert abs(chi_square(cells)) < 4


def test_no_two_choices_share_their_numbers() -> None:
    """Seed and purpose are told apart: seed 1 for "1/a" is not seed 11 for "/a"."""
    drawn = np.concatenate(
        [
            np.ravel(bits(seed, purpose, np.arange(50)[:, None], np.arange(50)))
            for seed in (0, 1, 11, -1)
            for purpose in ("a", "1/a", "/a", "b")
        ]
    )
    assert len(np.unique(drawn)) == drawn.size


def test_integers_are_even_below_their_bound() -> None:
    drawn = integers(0, "t", 7, np.arange(MANY))
    assert drawn.dtype == np.int64
    assert set(drawn.tolist()) == set(range(7))
    assert abs(chi_square(np.bincount(drawn))) < 4
    assert integers(0, "t", 1, np.arange(100)).tolist() == [0] * 100
    bounds = np.array([1, 2, 1000])
    assert (integers(0, "t", bounds, np.arange(500)[:, None]) < bounds).all()
    assert drawn.tolist() == np.floor(uniforms(0, "t", np.arange(MANY)) * 7).tolist()
