"""Retrieval and kernel distance against loops, and what must hold for any features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.image.kid import poly_mmd

from vilg.evaluation.likeness import finds_original, kernel_distance

Features = NDArray[np.float64]


def random_pair(seed: int, num: int, resemblance: float = 0.8) -> tuple[Features, Features]:
    """Features of originals, and others that resemble their partners."""
    random = np.random.default_rng(seed)
    originals, noise = random.normal(size=(2, num, 6))
    return resemblance * originals + (1 - resemblance) * noise + 0.1, originals


def naive_cosine(x: Features, y: Features) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def naive_found(made: Features, originals: Features) -> list[bool]:
    found = []
    for i, x in enumerate(made):
        others = [naive_cosine(x, y) for j, y in enumerate(originals) if j != i]
        found.append(all(naive_cosine(x, originals[i]) > other for other in others))
    return found


def naive_distance(made: Features, originals: Features) -> float:
    def k(x: Features, y: Features) -> float:
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    num = len(made)
    total = 0.0
    for i in range(num):
        for j in range(num):
            if i != j:
                total += k(made[i], made[j]) + k(originals[i], originals[j])
                total -= k(made[i], originals[j]) + k(originals[i], made[j])
    return total / (num * (num - 1))


@settings(derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 9), resemblance=st.floats(0, 1))
def test_retrieval_is_the_loop(seed: int, num: int, resemblance: float) -> None:
    made, originals = random_pair(seed, num, resemblance)
    assert finds_original(made, originals).tolist() == naive_found(made, originals)


def test_the_nearest_is_looked_for_among_the_originals() -> None:
    # The second original is nearer to the first made picture, the second made one to the second.
    made = np.array([[1.0, 0.1], [1.0, 0.9]])
    originals = np.array([[1.0, 0.0], [0.93, 0.375]])
    assert finds_original(made, originals).tolist() == [True, True]
    assert finds_original(originals, made).tolist() == [True, False]


def test_identical_pictures_are_found_and_shuffled_ones_are_not() -> None:
    _, originals = random_pair(0, 50)
    assert finds_original(originals, originals).all()
    assert finds_original(3 * originals, originals).all()  # cosine: length is not looked at
    assert not finds_original(np.roll(originals, 1, axis=0), originals).any()


def test_one_as_near_as_its_own_original_counts_as_nearer() -> None:
    originals = np.array([[1.0, 2.0], [4.0, 1.0], [1.0, 2.0]])
    assert finds_original(originals, originals).tolist() == [False, True, False]


@settings(derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(4, 9), resemblance=st.floats(0, 1))
def test_the_distance_is_the_double_loop(seed: int, num: int, resemblance: float) -> None:
    made, originals = random_pair(seed, num, resemblance)
    distance = kernel_distance(made, originals, 0)
    assert distance is not None
    assert distance["mean"] == pytest.approx(naive_distance(made, originals), abs=1e-9)


def test_the_distance_is_torchmetrics_but_for_the_kernels_of_partners() -> None:
    made, originals = random_pair(0, 30)
    theirs = float(poly_mmd(torch.from_numpy(originals), torch.from_numpy(made)))
    mixed = (made @ originals.T / 6 + 1) ** 3
    of_others = (mixed.sum() - mixed.trace()) / (30 * 29)
    distance = kernel_distance(made, originals, 0)
    assert distance is not None
    assert distance["mean"] == pytest.approx(theirs + 2 * mixed.mean() - 2 * of_others)


def test_identical_sets_are_at_no_distance_and_it_grows_with_the_difference() -> None:
    _, originals = random_pair(0, 40)
    nothing = {"mean": 0, "standard_error": 0}
    assert kernel_distance(originals, originals, 0) == pytest.approx(nothing, abs=1e-9)
    near, far = (kernel_distance(originals + shift, originals, 0) for shift in (0.3, 0.6))
    assert near is not None and far is not None
    assert 0 < 3 * near["standard_error"] < near["mean"] < far["mean"]


@pytest.mark.parametrize("resemblance", [0.0, 0.7])
def test_sets_of_one_kind_are_at_no_distance_on_average(resemblance: float) -> None:
    random = np.random.default_rng(0)
    means = []
    for _ in range(300):
        originals, noise = random.normal(size=(2, 10, 6))
        made = resemblance * originals + math.sqrt(1 - resemblance**2) * noise
        distance = kernel_distance(made, originals, 0)
        assert distance is not None
        means.append(distance["mean"])
    assert abs(np.mean(means)) < 3 * np.std(means) / math.sqrt(300)


@pytest.mark.parametrize("num", [40, 5])
def test_the_standard_error_is_the_spread_of_repeated_measurements(num: int) -> None:
    random = np.random.default_rng(0)
    means, errors = [], []
    for seed in range(300):
        originals, noise = random.normal(size=(2, num, 6))
        distance = kernel_distance(0.8 * originals + 0.6 * noise + 0.7, originals, seed)
        assert distance is not None
        means.append(distance["mean"])
        errors.append(distance["standard_error"])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_the_seed_decides_the_halves_and_not_the_distance() -> None:
    made, originals = random_pair(0, 20)
    first, again, other = (kernel_distance(made, originals, seed) for seed in (0, 0, 1))
    assert first is not None and other is not None
    assert first == again
    assert first["mean"] == other["mean"]
    assert first["standard_error"] != other["standard_error"]
    assert first["standard_error"] == pytest.approx(other["standard_error"], rel=0.5)


def test_under_four_pictures_there_are_no_halves_to_compare() -> None:
    made, originals = random_pair(0, 4)
    assert kernel_distance(made, originals, 0) is not None
    for num in (0, 1, 2, 3):
        assert kernel_distance(made[:num], originals[:num], 0) is None
