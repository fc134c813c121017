"""Nearest codes, the gradient past them, and how the codebook learns, against naive references."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vilg.tokenizer.codebooks import CodebookAverages
from vilg.tokenizer.quantizers import GumbelQuantizer, VectorQuantizer

K, D = 12, 4


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(-1, keepdim=True).sqrt()


def rows(z_BDHW: Tensor) -> Tensor:
    return z_BDHW.permute(0, 2, 3, 1).reshape(-1, z_BDHW.shape[1])


@pytest.fixture
def quantizer() -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(K, D)


@pytest.fixture
def z_BDHW(quantizer: VectorQuantizer) -> Tensor:
    """Of many lengths, so that anything that forgets to normalise differs."""
    return torch.randn(3, D, 2, 5) * torch.logspace(-2, 2, 5)


def test_codes_start_on_the_unit_sphere(quantizer: VectorQuantizer) -> None:
    assert quantizer.codebook_KD.shape == (K, D)
    assert torch.allclose(quantizer.codebook_KD.norm(dim=-1), torch.ones(K))
    assert len(quantizer.codebook_KD.unique(dim=0)) == K


def test_the_nearest_code_has_the_largest_cosine(
    quantizer: VectorQuantizer, z_BDHW: Tensor
) -> None:
    expected = []
    for z in rows(z_BDHW).tolist():
        cosines = [
            sum(a * b for a, b in zip(z, code, strict=True)) / (math.hypot(*z) * math.hypot(*code))
            for code in quantizer.codebook_KD.tolist()
        ]
        expected.append(cosines.index(max(cosines)))
    assert len(set(expected)) > K // 2
    assert quantizer.nearest(rows(z_BDHW)).tolist() == expected
    # Whatever the encoder ran in, its vectors are compared in single precision.
    halves = rows(z_BDHW).bfloat16()
    assert torch.equal(quantizer.nearest(halves), quantizer.nearest(halves.float()))


def test_forward_returns_the_codes_of_its_ids(quantizer: VectorQuantizer, z_BDHW: Tensor) -> None:
    codes_BDHW, ids_BHW, _ = quantizer(z_BDHW)
    assert torch.equal(ids_BHW.flatten(), quantizer.nearest(rows(z_BDHW)))
    assert torch.allclose(codes_BDHW, quantizer.lookup(ids_BHW), atol=1e-6)
    b, y, x = 2, 1, 3
    assert torch.equal(
        quantizer.lookup(ids_BHW)[b, :, y, x], quantizer.codebook_KD[ids_BHW[b, y, x]]
    )


def test_gradients_pass_straight_through_to_the_normalised_input(
    quantizer: VectorQuantizer, z_BDHW: Tensor
) -> None:
    z_BDHW.requires_grad_()
    upstream_BDHW = torch.randn_like(z_BDHW)
    codes_BDHW, _, _ = quantizer(z_BDHW)
    (found_BDHW,) = torch.autograd.grad(codes_BDHW, z_BDHW, upstream_BDHW)
    # d(z / |z|) takes out the part along z and divides by the length.
    z_PD, g_PD = rows(z_BDHW.detach()), rows(upstream_BDHW)
    n_PD = unit(z_PD)
    expected_PD = (g_PD - n_PD * (n_PD * g_PD).sum(-1, keepdim=True)) / z_PD.norm(
        dim=-1, keepdim=True
    )
    assert torch.allclose(rows(found_BDHW), expected_PD, rtol=1e-4, atol=1e-6)


def test_no_gradient_ever_reaches_the_codebook(quantizer: VectorQuantizer, z_BDHW: Tensor) -> None:
    quantizer.codebook_KD.requires_grad_()
    codes_BDHW, _, _ = quantizer(z_BDHW.requires_grad_())
    (found,) = torch.autograd.grad(codes_BDHW.sum(), quantizer.codebook_KD, allow_unused=True)
    assert found is None or not found.any()
    assert list(quantizer.parameters()) == []


def test_commitment_is_the_squared_distance_to_the_code(
    quantizer: VectorQuantizer, z_BDHW: Tensor
) -> None:
    z_BDHW.requires_grad_()
    _, ids_BHW, commitment = quantizer(z_BDHW)
    z_PD = rows(z_BDHW.detach())
    n_PD, code_PD = unit(z_PD), quantizer.codebook_KD[ids_BHW.flatten()]
    P = len(z_PD)
    expected = sum(
        sum((a - b) ** 2 for a, b in zip(z, code, strict=True))
        for z, code in zip(n_PD.tolist(), code_PD.tolist(), strict=True)
    )
    assert float(commitment.detach()) == pytest.approx(expected / P, rel=1e-5)
    # It pulls the encoder towards the code: 2 (n - code) / P, through the normalisation.
    (found_BDHW,) = torch.autograd.grad(commitment, z_BDHW)
    g_PD = 2 * (n_PD - code_PD) / P
    expected_PD = (g_PD - n_PD * (n_PD * g_PD).sum(-1, keepdim=True)) / z_PD.norm(
        dim=-1, keepdim=True
    )
    assert torch.allclose(rows(found_BDHW), expected_PD, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
def test_forward_changes_nothing(
    quantizer: VectorQuantizer, z_BDHW: Tensor, training: bool
) -> None:
    before = quantizer.codebook_KD.clone()
    first = quantizer.train(training)(z_BDHW)
    again = quantizer(z_BDHW)
    assert torch.equal(quantizer.codebook_KD, before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_codebook_follows_like_a_naive_moving_average(quantizer: VectorQuantizer) -> None:
    decay = 0.8
    averages = CodebookAverages(quantizer, decay, restart_below=0.0)
    counts = [1 / K] * K
    sums = [[value / K for value in code] for code in quantizer.codebook_KD.tolist()]
    for step in range(5):
        z_BDHW = torch.randn(2, D, 3, 3) * 7
        _, ids_BHW, _ = quantizer(z_BDHW)
        found = averages.update(quantizer, z_BDHW, ids_BHW, 0, step, np.arange(len(z_BDHW)))

        vectors, ids = unit(rows(z_BDHW)).tolist(), ids_BHW.flatten().tolist()
        for k in range(K):
            mine = [z for z, id in zip(vectors, ids, strict=True) if id == k]
            counts[k] = decay * counts[k] + (1 - decay) * len(mine) / len(ids)
            for d in range(D):
                seen = sum(z[d] for z in mine) / len(ids)
                sums[k][d] = decay * sums[k][d] + (1 - decay) * seen
        assert averages.counts_K.tolist() == pytest.approx(counts, abs=1e-6)
        codes = [[value / math.hypot(*total) for value in total] for total in sums]
        for code, expected in zip(quantizer.codebook_KD.tolist(), codes, strict=True):
            assert code == pytest.approx(expected, abs=1e-5)

        shares = [count / sum(counts) for count in counts]
        entropy = -sum(share * math.log(share) for share in shares)
        assert found["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-4)
        assert (found["usage"], found["restarts"]) == (1.0, 0.0)


def starved(
    quantizer: VectorQuantizer, step: int, seed: int = 0
) -> tuple[Tensor, dict[str, float]]:
    """Let one batch choose codes 0 and 1 only, forgetting fast; return the codebook after it."""
    torch.manual_seed(5)
    z_BDHW = torch.randn(2, D, 4, 4) * 3
    ids_BHW = torch.arange(32).view(2, 4, 4) % 2
    torch.manual_seed(1000 + step)  # whatever else draws numbers meanwhile
    averages = CodebookAverages(quantizer, decay=0.25, restart_below=0.5)
    found = averages.update(quantizer, z_BDHW, ids_BHW, seed, step, np.arange(len(z_BDHW)))
    assert torch.allclose(averages.counts_K[2:], torch.full((K - 2,), 1 / K))
    # Each restarted code is one vector of the batch, normalised.
    distances = torch.cdist(quantizer.codebook_KD[2:], unit(rows(z_BDHW)))
    assert distances.min(dim=1).values.max() < 1e-3
    return quantizer.codebook_KD.clone(), found


def test_dead_codes_restart_at_vectors_of_the_batch(quantizer: VectorQuantizer) -> None:
    before = quantizer.codebook_KD.clone()
    after, found = starved(quantizer, step=3)
    assert not torch.isclose(after, before).all(dim=-1).any()
    assert found["restarts"] == K - 2
    assert found["usage"] == pytest.approx(2 / K)
    # Codes 0 and 1 have 1/4 of an even share and 3/4 of half the batch; what restarts was not used.
    shares = [0.25 / K + 0.75 / 2] * 2 + [0.25 / K] * (K - 2)
    entropy = -sum(share * math.log(share) for share in shares)
    assert found["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-5)
    assert len(after[2:].unique(dim=0)) > (K - 2) // 2  # not all at one vector


def test_restarts_depend_on_seed_and_step_alone(quantizer: VectorQuantizer) -> None:
    start = quantizer.codebook_KD.clone()

    def restarted(step: int, seed: int = 0, disturbance: int = 0) -> Tensor:
        quantizer.codebook_KD.copy_(start)
        torch.rand(disturbance)
        return starved(quantizer, step, seed)[0][2:]

    first = restarted(step=3)
    torch.manual_seed(77)
    assert torch.equal(restarted(step=3, disturbance=9), first)
    assert not torch.equal(restarted(step=4), first)
    assert not torch.equal(restarted(step=3, seed=1), first)


def test_a_code_is_dead_just_under_its_share_of_an_even_use() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(4, D)
    ids_BHW = torch.tensor([0] * 3 + [1] * 2 + [2] * 11).view(1, 4, 4)  # shares 3, 2, 11, 0 of 16
    z_BDHW = torch.randn(1, D, 4, 4)
    # An even use is 4 of 16: with a limit of 0.6 codes under 2.4 of 16 are dead, that is two.
    averages = CodebookAverages(quantizer, decay=0.0, restart_below=0.6)
    found = averages.update(quantizer, z_BDHW, ids_BHW, 0, 0, np.arange(len(z_BDHW)))
    assert (found["restarts"], found["usage"]) == (2.0, 0.5)
    assert averages.counts_K.tolist() == pytest.approx([3 / 16, 1 / 4, 11 / 16, 1 / 4])


def test_codes_stay_on_the_unit_sphere(quantizer: VectorQuantizer) -> None:
    averages = CodebookAverages(quantizer, decay=0.5, restart_below=0.3)
    for step in range(6):
        z_BDHW = torch.randn(1, D, 3, 3) * 20
        _, ids_BHW, _ = quantizer(z_BDHW)
        averages.update(quantizer, z_BDHW, ids_BHW, 0, step, np.arange(len(z_BDHW)))
        assert torch.allclose(quantizer.codebook_KD.norm(dim=-1), torch.ones(K), atol=1e-5)


def test_codes_are_searched_in_fp32_within_a_bf16_region() -> None:
    quantizer = VectorQuantizer(512, 16)
    z_BDHW = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = quantizer(z_BDHW)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(z_BDHW)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_likeliest_codes_are_scored_in_fp32_within_a_bf16_region() -> None:
    torch.manual_seed(0)
    quantizer, z_BDHW = GumbelQuantizer(4096, 16, in_dim=32), torch.randn(4, 32, 8, 8)
    expected = quantizer.ids(z_BDHW)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.ids(z_BDHW), expected)
