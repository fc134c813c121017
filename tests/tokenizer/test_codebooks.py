"""How codebooks learn, besides the averages on the sphere (`test_quantizers.py`)."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from vilg.errors import SettingError
from vilg.tokenizer.codebooks import (
    CodebookAverages,
    CodebookConfig,
    CodebookGradients,
    CodebookTraining,
    CodeUse,
    LearningRule,
    cosine_schedule,
    gumbel_noise,
    relax,
)
from vilg.tokenizer.quantizers import GumbelQuantizer, VectorQuantizer

K, D = 12, 4


def rows_of(z_BDHW: Tensor) -> Tensor:
    """Return the vectors in the order of a flattened batch of ids: pictures, rows, columns."""
    B, _, H, W = z_BDHW.shape
    return torch.stack([z_BDHW[b, :, y, x] for b, y, x in product(range(B), range(H), range(W))])


@pytest.fixture
def plain() -> VectorQuantizer:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(K, D, normalised=False)
    quantizer.codebook_KD.normal_(std=2)
    return quantizer


@pytest.fixture
def gumbel() -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(K, D, in_dim=5)


def test_plain_codes_start_small_and_the_nearest_is_by_distance(plain: VectorQuantizer) -> None:
    fresh = VectorQuantizer(K, D, normalised=False).codebook_KD
    assert fresh.abs().max() <= 1 / K and fresh.abs().max() > 0.8 / K
    z_PD = torch.randn(40, D) * 2
    expected = [
        min(range(K), key=lambda k: math.dist(z, plain.codebook_KD[k].tolist()))
        for z in z_PD.tolist()
    ]
    assert plain.nearest(z_PD).tolist() == expected
    by_cosine = VectorQuantizer(K, D)
    by_cosine.codebook_KD.copy_(plain.codebook_KD)
    assert by_cosine.nearest(z_PD).tolist() != expected


def test_plain_codes_become_the_mean_of_their_vectors(plain: VectorQuantizer) -> None:
    z_BDHW = torch.randn(2, D, 3, 3) * 3
    ids_BHW = plain.ids(z_BDHW)
    averages = CodebookAverages(plain, decay=0.0, restart_below=0.0)
    before = plain.codebook_KD.clone()
    averages.update(plain, z_BDHW, ids_BHW, 0, 0, np.arange(2))
    rows, ids = rows_of(z_BDHW), ids_BHW.flatten()
    for k in ids.unique().tolist():
        assert torch.allclose(plain.codebook_KD[k], rows[ids == k].mean(0), atol=1e-5)
        assert not torch.allclose(plain.codebook_KD[k], before[k])


def test_codes_that_learn_by_gradients_follow_the_third_term(plain: VectorQuantizer) -> None:
    z_BDHW = torch.randn(2, D, 3, 3, requires_grad=True)
    codes = CodebookGradients(plain, decay=0.5, restart_below=0.0)
    ids_BHW = plain.ids(z_BDHW)
    loss = codes.loss(plain, z_BDHW, ids_BHW)
    rows, chosen = rows_of(z_BDHW.detach()), plain.codebook_KD[ids_BHW.flatten()]
    assert float(loss.detach()) == pytest.approx(float((rows - chosen).square().sum(1).mean()))
    gradient_KD, of_z = torch.autograd.grad(loss, (codes.weight_KD, z_BDHW), allow_unused=True)
    assert of_z is None  # sg[z]
    expected_KD = torch.zeros(K, D).index_add_(0, ids_BHW.flatten(), 2 * (chosen - rows) / 18)
    assert torch.allclose(gradient_KD, expected_KD, atol=1e-6)


@pytest.mark.parametrize("normalised", [True, False])
def test_the_quantizer_gets_the_moved_weights(normalised: bool) -> None:
    torch.manual_seed(1)
    quantizer = VectorQuantizer(K, D, normalised)
    codes = CodebookGradients(quantizer, decay=0.5, restart_below=0.0)
    z_BDHW = torch.randn(1, D, 2, 2)
    with torch.no_grad():
        codes.weight_KD += 0.3
    moved = codes.weight_KD.detach().clone()
    codes.update(quantizer, z_BDHW, quantizer.ids(z_BDHW), 0, 0, np.arange(1))
    expected = moved / moved.norm(dim=-1, keepdim=True) if normalised else moved
    assert torch.allclose(quantizer.codebook_KD, expected, atol=1e-6)
    assert torch.equal(quantizer.codebook_KD, codes.weight_KD)


def test_dead_codes_that_learn_by_gradients_restart_too(plain: VectorQuantizer) -> None:
    codes = CodebookGradients(plain, decay=0.0, restart_below=0.5)
    z_BDHW = torch.randn(2, D, 4, 4) * 3
    ids_BHW = torch.arange(32).view(2, 4, 4) % 2
    found = codes.update(plain, z_BDHW, ids_BHW, 0, 1, np.arange(2))
    assert found["restarts"] == K - 2 and found["usage"] == pytest.approx(2 / K)
    vectors = set(map(tuple, rows_of(z_BDHW).tolist()))
    assert all(tuple(code) in vectors for code in plain.codebook_KD[2:].tolist())


def test_restarts_go_where_codes_are_missing(plain: VectorQuantizer) -> None:
    """Drawn without repetition, in proportion to the squared error."""
    use = CodeUse(K, decay=0.5, restart_below=0.1)
    z_BDHW = torch.arange(8 * D).view(2, D, 2, 2).float()
    errors = torch.tensor([[[6.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    rows = rows_of(z_BDHW).tolist()
    firsts = [
        rows.index(use.restart_vectors(z_BDHW, errors, 1, 0, step, np.arange(2))[0].tolist())
        for step in range(600)
    ]
    assert {*firsts} == {0, 1, 7}
    assert firsts.count(0) / 600 == pytest.approx(0.6, abs=0.06)
    assert firsts.count(7) / 600 == pytest.approx(0.2, abs=0.05)
    three = use.restart_vectors(z_BDHW, errors, 3, 0, 0, np.arange(2)).tolist()
    assert sorted(rows.index(row) for row in three) == [0, 1, 7]
    assert len(use.restart_vectors(z_BDHW, errors, 20, 0, 0, np.arange(2))) == 8


def test_more_dead_codes_than_positions_wait_their_turn(plain: VectorQuantizer) -> None:
    averages = CodebookAverages(plain, decay=0.0, restart_below=0.5)
    z_BDHW = torch.randn(1, D, 2, 2)
    found = averages.update(
        plain, z_BDHW, torch.zeros(1, 2, 2, dtype=torch.long), 0, 0, np.arange(1)
    )
    assert found["restarts"] == 4 and found["usage"] == pytest.approx(1 / K)
    assert int((averages.counts_K == 0).sum()) == K - 1 - 4
    assert plain.codebook_KD.isfinite().all()


def test_gumbel_tokens_are_the_likeliest_codes(gumbel: GumbelQuantizer) -> None:
    z_BDHW = torch.randn(2, 5, 3, 2)
    scores = gumbel.to_logits(z_BDHW).detach()
    for b in range(2):
        for y in range(3):
            for x in range(2):
                best = max(range(K), key=lambda k: float(scores[b, k, y, x]))
                assert int(gumbel.ids(z_BDHW)[b, y, x]) == best
    ids_BHW = gumbel.ids(z_BDHW)
    assert torch.equal(gumbel.lookup(ids_BHW)[1, :, 2, 0], gumbel.codebook_KD[ids_BHW[1, 2, 0]])


@pytest.mark.parametrize("straight_through", [False, True])
def test_relaxed_codes_are_a_softmax_over_noisy_scores(
    gumbel: GumbelQuantizer, straight_through: bool
) -> None:
    z_BDHW, noise = torch.randn(1, 5, 1, 2), torch.randn(1, K, 1, 2)
    codes, ids, kl = relax(gumbel, z_BDHW, noise, 0.7, straight_through)
    scores = gumbel.to_logits(z_BDHW).detach()
    total_kl = 0.0
    for x in range(2):
        noisy = [(float(scores[0, k, 0, x]) + float(noise[0, k, 0, x])) / 0.7 for k in range(K)]
        top = sum(math.exp(value) for value in noisy)
        weights = [math.exp(value) / top for value in noisy]
        best = weights.index(max(weights))
        assert int(ids[0, 0, x]) == best
        mean = sum(w * code for w, code in zip(weights, gumbel.codebook_KD.detach(), strict=True))
        expected = gumbel.codebook_KD[best] if straight_through else mean
        assert torch.allclose(codes[0, :, 0, x], expected, atol=1e-5)
        q = scores[0, :, 0, x].softmax(0).tolist()
        total_kl += sum(p * math.log(p * K) for p in q)
    assert float(kl.detach()) == pytest.approx(total_kl, rel=1e-4)


def test_a_chosen_code_has_the_gradient_of_the_mean(gumbel: GumbelQuantizer) -> None:
    z_BDHW, noise = torch.randn(1, 5, 2, 2), torch.randn(1, K, 2, 2)

    def gradient(straight_through: bool) -> Tensor:
        z = z_BDHW.clone().requires_grad_()
        codes, _, _ = relax(gumbel, z, noise, 0.7, straight_through)
        return torch.autograd.grad((codes * torch.arange(D).view(1, D, 1, 1)).sum(), z)[0]

    assert torch.allclose(gradient(True), gradient(False), atol=1e-6)
    assert gradient(True).any()


def test_even_scores_have_no_divergence(gumbel: GumbelQuantizer) -> None:
    with torch.no_grad():
        gumbel.to_logits.weight.zero_()
        gumbel.to_logits.bias.zero_()
    kl = relax(gumbel, torch.randn(2, 5, 2, 2), torch.zeros(2, K, 2, 2), 1.0, False)[2]
    assert torch.allclose(kl, torch.zeros(2), atol=1e-5)


def test_noise_belongs_to_the_sample_and_is_gumbel() -> None:
    shape = torch.Size((K, 2, 3))
    together = gumbel_noise(1, 5, np.array([4, 9, 2]), shape)
    assert together.shape == (3, K, 2, 3)
    assert torch.equal(gumbel_noise(1, 5, np.array([2]), shape)[0], together[2])
    assert not torch.equal(gumbel_noise(1, 6, np.array([2]), shape)[0], together[2])
    assert not torch.equal(gumbel_noise(2, 5, np.array([2]), shape)[0], together[2])
    many = gumbel_noise(0, 0, np.arange(4), torch.Size((100, 10, 10)))
    # Mean is Euler's constant, variance pi^2 / 6.
    assert float(many.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(many.var()) == pytest.approx(math.pi**2 / 6, abs=0.06)


def test_the_schedule_is_half_a_cosine() -> None:
    assert [cosine_schedule(1.0, 0.5, 4, step) for step in (0, 2, 4, 9)] == pytest.approx(
        [1.0, 0.75, 0.5, 0.5]
    )
    assert cosine_schedule(0.0, 6.6, 8, 2) == pytest.approx(6.6 * (1 - math.cos(math.pi / 4)) / 2)


def training(quantizer: VectorQuantizer | GumbelQuantizer, **settings: object) -> CodebookTraining:
    return CodebookTraining(quantizer, CodebookConfig(**settings), seed=0)  # type: ignore[arg-type]


def test_the_bottleneck_adds_its_weighted_terms(plain: VectorQuantizer) -> None:
    z_BDHW, ids = torch.randn(2, D, 3, 3), np.arange(2)
    commitment = float(plain(z_BDHW)[2])
    average = training(plain, commitment=0.3)(plain, z_BDHW, 0, ids, 48)
    assert float(average.loss) == pytest.approx(0.3 * commitment)
    gradient = training(plain, commitment=0.3, rule=LearningRule.GRADIENT)(
        plain, z_BDHW, 0, ids, 48
    )
    assert float(gradient.loss.detach()) == pytest.approx(1.3 * commitment)


def test_the_relaxed_bottleneck_follows_its_schedules(gumbel: GumbelQuantizer) -> None:
    z_BDHW, ids = torch.randn(2, 5, 2, 2), np.array([3, 8])
    rules = dict(temperature_from=2.0, temperature_to=0.5, temperature_steps=8, kl=5.0, kl_steps=4)
    bottleneck = training(gumbel, **rules)
    for step, temperature, weight in ((0, 2.0, 0.0), (4, 1.25, 5.0), (8, 0.5, 5.0)):
        found = bottleneck(gumbel, z_BDHW, step, ids, 48)
        noise = gumbel_noise(0, step, ids, torch.Size((K, 2, 2)))
        codes, chosen, kl_B = relax(gumbel, z_BDHW, noise, temperature, False)
        assert torch.allclose(found.codes_BDHW, codes) and torch.equal(found.ids_BHW, chosen)
        assert float(found.loss.detach()) == pytest.approx(
            weight * float(kl_B.mean().detach()) / 48, rel=1e-5
        )
    assert bottleneck.follow(gumbel, 8)["restarts"] == 0


@pytest.mark.parametrize(
    "wrong", [{"decay": 1.0}, {"temperature_to": 0.0}, {"kl_steps": 0}, {"temperature_steps": 0}]
)
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        CodebookConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("learner", [CodebookAverages, CodebookGradients])
def test_a_collapsed_codebook_is_seen_between_its_restarts(
    learner: type[CodebookAverages | CodebookGradients],
) -> None:
    """Codes die in cohorts and live on for a while after a restart; their use tells at every step."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(256, D)
    codes = learner(quantizer, decay=0.9, restart_below=0.1)
    ids_BHW = torch.arange(32).view(2, 4, 4) % 5
    restarts = []
    for step in range(60):
        found = codes.update(quantizer, torch.randn(2, D, 4, 4), ids_BHW, 0, step, np.arange(2))
        restarts.append(found["restarts"])
        if step > 30:
            assert found["usage"] == pytest.approx(5 / 256)
            assert found["perplexity"] < 7
    assert 0.0 in restarts[31:]


def test_use_of_gumbel_codes_is_that_of_the_tokens_without_noise() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(16, D, in_dim=None)
    training = CodebookTraining(quantizer, CodebookConfig(decay=0.0), seed=0)
    logits_BKHW = torch.zeros(2, 16, 8, 8)
    logits_BKHW[:, 3] = 0.1  # the noise chooses evenly, the likeliest is always the same
    quantized = training(quantizer, logits_BKHW, 0, np.arange(2), 192)
    assert len(quantized.ids_BHW.unique()) > 10
    found = training.follow(quantizer, 0)
    assert found["usage"] == pytest.approx(1 / 16)
    assert found["perplexity"] == pytest.approx(1.0)
