"""The order of samples: each once an epoch, from arithmetic alone."""

import numpy as np
import pytest

from vilg.data.order import batch_ids, permute

SIZES = [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 257, 1000, 4096, 6251]


@pytest.mark.parametrize("num", SIZES)
def test_an_epoch_visits_every_sample_once(num: int) -> None:
    for seed in (0, 7):
        for epoch in (0, 1, 100):
            order = permute(np.arange(num), num, seed, epoch)
            assert order.dtype == np.int64
            assert sorted(order.tolist()) == list(range(num))


def test_a_position_is_looked_up_alone() -> None:
    order = permute(np.arange(1000), 1000, 3, 2)
    for position in (0, 1, 500, 999):
        assert permute(np.array([position]), 1000, 3, 2) == order[position]
    assert permute(np.array([999, 0, 0]), 1000, 3, 2).tolist() == order[[999, 0, 0]].tolist()


def test_positions_are_left_alone() -> None:
    positions = np.arange(100)
    permute(positions, 100, 0, 0)
    assert positions.tolist() == list(range(100))


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = [permute(np.arange(1000), 1000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders.append(np.arange(1000))
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two unrelated orders agree at one place on average; twelve never happens.
            assert (one == other).sum() < 12


@pytest.mark.parametrize("num", [2, 3, 5, 12])
def test_every_sample_comes_first_equally_often(num: int) -> None:
    firsts = [int(permute(np.array([0]), num, 0, epoch)[0]) for epoch in range(25 * num)]
    counts = np.bincount(firsts, minlength=num)
    assert abs(counts - 25).max() < 4 * 5  # four standard deviations


def test_neighbours_do_not_stay_neighbours() -> None:
    order = permute(np.arange(6251), 6251, 0, 0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(order, np.arange(6251))[0, 1]) < 0.05


@pytest.mark.parametrize(("num", "batch_size"), [(1, 1), (1, 4), (3, 2), (10, 4), (7, 20), (64, 8)])
def test_batches_laid_end_to_end_are_the_epochs(num: int, batch_size: int) -> None:
    """Also where a batch straddles two epochs, or holds several."""
    epochs = 4 * batch_size
    ids = np.concatenate([batch_ids(5, step, batch_size, num) for step in range(4 * num)])
    assert ids.dtype == np.int64
    for epoch, part in enumerate(ids.reshape(epochs, num)):
        assert part.tolist() == permute(np.arange(num), num, 5, epoch).tolist()
        assert sorted(part.tolist()) == list(range(num))


def test_a_step_is_a_pure_function_of_its_number() -> None:
    late = batch_ids(0, 123_456_789, 32, 6251).tolist()
    batch_ids(0, 0, 32, 6251)
    assert batch_ids(0, 123_456_789, 32, 6251).tolist() == late
    assert batch_ids(1, 123_456_789, 32, 6251).tolist() != late
    assert batch_ids(0, 123_456_790, 32, 6251).tolist() != late


def test_orders_are_pinned() -> None:
    """A checkpoint resumes at its sample by these. Another value here breaks every run's resume."""
    assert permute(np.arange(10), 10, 0, 0).tolist() == [4, 5, 6, 1, 9, 3, 0, 7, 2, 8]
    assert batch_ids(0, 0, 8, 6251).tolist() == [
        3897,
        502,
        1393,
        4199,
        2693,
        3309,
        264,
        3653,
    ]
    assert batch_ids(3, 1000, 8, 6251).tolist() == [
        2280,
        4652,
        4231,
        4934,
        5802,
        2536,
        3260,
        1075,
    ]
