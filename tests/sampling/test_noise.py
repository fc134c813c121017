"""Drawing one token: the distribution, the filters, and numbers that know no batch."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vilg.model.defaults import SamplingConfig
from vilg.randomness import uniforms
from vilg.sampling import noise
from vilg.sampling.noise import draw_uniforms, keep_top_k

LOGITS = torch.tensor([0.3, -1.0, 2.0, 0.9, -4.0, 1.9])
ORDER = [2, 5, 3, 0, 1, 4]  # likeliest first
ALMOST_ONE = 1 - 2.0**-53  # the largest number that `uniforms` can return


def draw(logits: Tensor, numbers: Tensor, **settings: Any) -> Tensor:
    return noise.draw(logits, numbers, SamplingConfig(**settings))


def frequencies(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Return each id's share of a regular grid of numbers: exact to half a step of the grid."""
    steps = 20_000
    grid = (torch.arange(steps, dtype=torch.double) + 0.5) / steps
    ids = draw(logits.expand(steps, -1), grid, temperature=temperature, top_k=top_k, top_p=top_p)
    assert (ids.dtype, ids.shape) == (torch.long, (steps,))
    return torch.bincount(ids, minlength=logits.shape[-1]) / steps


def test_a_number_depends_on_seed_and_step_alone() -> None:
    numbers_BN = draw_uniforms([3, 14, 3, 15], 8)
    assert (numbers_BN.dtype, numbers_BN.shape) == (torch.double, (4, 8))
    assert torch.equal(numbers_BN[0], numbers_BN[2])
    assert len(numbers_BN.unique()) == 3 * 8
    assert torch.equal(draw_uniforms([15, 3], 8), numbers_BN[[3, 0]])
    assert torch.equal(draw_uniforms([3, 14, 3, 15], 5), numbers_BN[:, :5])
    assert draw_uniforms([2**40, 0], 1).shape == (2, 1)


def test_numbers_are_those_of_the_purpose_draw() -> None:
    """Pictures of a seed stay the same from release to release only if this does."""
    expected = [[float(uniforms(seed, "draw", step)) for step in range(9)] for seed in (5, 6)]
    assert draw_uniforms([5, 6], 9).tolist() == expected


def test_numbers_of_neighbours_are_unrelated() -> None:
    numbers = draw_uniforms(range(60), 60)
    assert abs(float(numbers.mean()) - 0.5) < 0.02
    assert abs(float(torch.corrcoef(numbers.flatten().unfold(0, 2, 1).T)[0, 1])) < 0.06
    assert abs(float(torch.corrcoef(numbers.T.flatten().unfold(0, 2, 1).T)[0, 1])) < 0.06


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    expected = torch.exp(LOGITS / temperature)
    expected = expected / expected.sum()
    found = frequencies(LOGITS, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_lower_temperature_sharpens() -> None:
    shares = [float(frequencies(LOGITS, temperature=t)[2]) for t in (4.0, 1.0, 0.5, 0.1)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.7 > shares[0] > 1 / 6


def test_temperature_zero_and_top_1_take_the_likeliest() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 17, generator=random)
    numbers = torch.rand(200, generator=random, dtype=torch.double)
    expected = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    assert torch.equal(draw(logits, numbers, temperature=0), expected)
    assert torch.equal(draw(logits, numbers, temperature=0, top_k=3), expected)
    assert torch.equal(draw(logits, numbers, top_k=1), expected)
    assert torch.equal(draw(logits, numbers, temperature=1e-4), expected)


@pytest.mark.parametrize("top_k", [1, 2, 3, 5, 6, 100])
def test_top_k_draws_among_the_k_likeliest_in_their_shares(top_k: int) -> None:
    kept = ORDER[:top_k]
    expected = torch.zeros(6)
    expected[kept] = torch.exp(LOGITS[kept])
    expected = expected / expected.sum()
    torch.testing.assert_close(frequencies(LOGITS, top_k=top_k), expected, rtol=0, atol=1e-4)


def test_keep_top_k_is_a_mask_row_by_row() -> None:
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    found = keep_top_k(logits, 2)
    minus = -float("inf")
    assert found.tolist() == [
        [minus, minus, LOGITS[2], minus, minus, LOGITS[5]],
        [LOGITS[5], minus, minus, LOGITS[2], minus, minus],
    ]
    assert torch.equal(keep_top_k(logits, 6), logits)
    assert torch.equal(keep_top_k(logits, 7), logits)


def test_ties_at_the_edge_of_top_k_stay() -> None:
    found = frequencies(torch.tensor([1.0, 0.0, 1.0, 1.0]), top_k=2)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("number", [0.0, 2.0**-53, 0.25, 0.5, ALMOST_ONE])
def test_an_id_is_never_out_of_range_nor_impossible(number: float) -> None:
    """Sums of thousands of rounded shares miss 1, and the shares at the ends may be nothing."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 3001, generator=random) * 3
    logits[:, :5] = -torch.inf
    logits[:, -5:] = -torch.inf
    ids = draw(logits, torch.full((500,), number, dtype=torch.double))
    assert ids.min() >= 5
    assert ids.max() < 2996
    kept = keep_top_k(logits, 4).isfinite()
    ids = draw(logits, torch.full((500,), number, dtype=torch.double), top_k=4)
    assert kept[torch.arange(500), ids].all()


def test_the_ends_of_the_numbers_draw_the_first_and_the_last_id() -> None:
    logits = LOGITS.expand(2, -1)
    assert draw(logits, torch.tensor([0.0, ALMOST_ONE], dtype=torch.double)).tolist() == [0, 5]
    assert draw(logits, torch.tensor([0.0, ALMOST_ONE], dtype=torch.double), top_k=2).tolist() == [
        2,
        5,
    ]


def test_a_number_on_a_boundary_belongs_to_the_next_id() -> None:
    """Shares [1/4, 1/4, 1/2] own [0, 1/4), [1/4, 1/2) and [1/2, 1)."""
    logits = torch.tensor([0.0, 0.0, 1.0]).mul(np.log(2)).expand(4, -1).double()
    numbers = torch.tensor([0.2499, 0.2501, 0.4999, 0.5001], dtype=torch.double)
    assert draw(logits, numbers).tolist() == [0, 1, 1, 2]
    even = torch.zeros(3, 2)
    numbers = torch.tensor([0.0, 0.5, 0.4999], dtype=torch.double)
    assert draw(even, numbers).tolist() == [0, 1, 0]


@pytest.mark.parametrize("top_k", [None, 3])
def test_a_row_draws_the_same_at_any_place_of_any_batch(top_k: int | None) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 40, generator=random)
    numbers = torch.rand(50, generator=random, dtype=torch.double)
    together = draw(logits, numbers, top_k=top_k)
    assert torch.equal(draw(logits.flip(0), numbers.flip(0), top_k=top_k).flip(0), together)
    alone = [draw(logits[i : i + 1], numbers[i : i + 1], top_k=top_k) for i in range(50)]
    assert torch.equal(torch.cat(alone), together)


def test_drawing_leaves_the_logits_alone() -> None:
    logits = LOGITS[None].clone()
    draw(logits, torch.tensor([0.3], dtype=torch.double), temperature=0.7, top_k=2)
    assert torch.equal(logits[0], LOGITS)


# --- top-p ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("top_p", [0.01, 0.4, 0.6, 0.9, 0.999, 1.0])
def test_top_p_draws_among_the_fewest_that_have_so_much(top_p: float, temperature: float) -> None:
    shares = torch.exp(LOGITS / temperature)
    shares = shares / shares.sum()
    kept: list[int] = []
    for id in ORDER:
        kept.append(id)
        if float(shares[kept].sum()) >= top_p:
            break
    expected = torch.zeros(6)
    expected[kept] = shares[kept]
    found = frequencies(LOGITS, temperature=temperature, top_p=top_p)
    torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=1e-4)


def test_top_p_counts_what_top_k_has_left() -> None:
    """Of two that are left, one has 52.5%: enough for a half, not for three fifths."""
    assert (frequencies(LOGITS, top_k=2, top_p=0.5) > 0).tolist().count(True) == 1
    assert (frequencies(LOGITS, top_k=2, top_p=0.6) > 0).tolist().count(True) == 2


def test_equals_at_the_edge_of_top_p_stay() -> None:
    found = frequencies(torch.zeros(4), top_p=0.5)
    torch.testing.assert_close(found, torch.full((4,), 0.25), rtol=0, atol=1e-4)
