"""Each term against its formula, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vilg.tokenizer.losses import (
    adaptive_weight,
    discriminator_hinge_loss,
    from_unit_interval,
    generator_adversarial_loss,
    logit_laplace_loss,
    pulls,
    r1_penalty,
    to_unit_interval,
)


def test_pixels_go_to_the_margins_and_back() -> None:
    pixels = torch.linspace(-1, 1, 11)
    values = to_unit_interval(pixels)
    assert values[0] == pytest.approx(0.1) and values[-1] == pytest.approx(0.9)
    assert torch.allclose(from_unit_interval(values), pixels, atol=1e-6)


def test_the_likelihood_is_dalle_s_formula() -> None:
    torch.manual_seed(0)
    raw, pixels = torch.randn(2, 6, 3, 2), torch.rand(2, 3, 3, 2) * 2 - 1
    total = 0.0
    for b in range(2):
        for c in range(3):
            for y in range(3):
                for x in range(2):
                    value = 0.8 * (float(pixels[b, c, y, x]) + 1) / 2 + 0.1
                    mu, scale = float(raw[b, c, y, x]), math.exp(float(raw[b, 3 + c, y, x]))
                    logit = math.log(value / (1 - value))
                    density = math.exp(-abs(logit - mu) / scale)
                    density /= 2 * scale * value * (1 - value)
                    total -= math.log(density)
    assert float(logit_laplace_loss(raw, pixels)) == pytest.approx(total / 36, rel=1e-5)


@pytest.mark.parametrize(("mu", "ln_b"), [(0.0, 0.0), (0.7, -1.0), (-1.0, 0.3)])
def test_the_density_of_a_pixel_sums_to_one(mu: float, ln_b: float) -> None:
    """Over all of (0, 1), margins included, in steps of the logit u: dx = x (1 - x) du."""
    raw = torch.tensor([mu] * 3 + [ln_b] * 3).view(1, 6, 1, 1)
    total, du = 0.0, 0.05
    for u in torch.arange(-12 + du / 2, 12, du):
        x = u.sigmoid()
        pixel = from_unit_interval(x).expand(1, 3, 1, 1)
        total += math.exp(-float(logit_laplace_loss(raw, pixel))) * float(x * (1 - x)) * du
    assert total == pytest.approx(1.0, abs=0.002)


def test_the_likelihood_is_best_at_the_pixel_itself() -> None:
    pixels = torch.tensor([-1.0, 0.2, 1.0]).view(1, 3, 1, 1)
    mu = to_unit_interval(pixels).logit()

    def loss(shift: float) -> float:
        return float(logit_laplace_loss(torch.cat([mu + shift, torch.zeros_like(mu)], 1), pixels))

    assert loss(0.0) < min(loss(-0.1), loss(0.1))
    assert loss(0.1) == pytest.approx(loss(0.0) + 0.1, abs=1e-5)


def test_hinge_and_generator_terms() -> None:
    real, made = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]), torch.tensor([[-2.0, 0.0], [0.5, -1.0]])
    expected = 0.5 * ((0 + 0.5 + 2 + 0) / 4 + (0 + 1 + 1.5 + 0) / 4)
    assert float(discriminator_hinge_loss(real, made)) == pytest.approx(expected)
    assert float(generator_adversarial_loss(made)) == pytest.approx((2 - 0 - 0.5 + 1) / 4)


def test_the_r1_penalty_is_the_slope_of_all_scores_a_patch() -> None:
    """Scores whose gradient is known: patch p of x scores a_p . x squared over 2."""
    torch.manual_seed(0)
    pixels = torch.randn(3, 3, 2, 2, dtype=torch.double).requires_grad_()
    a_PF = torch.randn(5, 12, dtype=torch.double).requires_grad_()
    projected_BP = pixels.flatten(1) @ a_PF.T
    penalty = r1_penalty(projected_BP.square() / 2, pixels)
    gradient_BF = projected_BP @ a_PF
    expected = 0.5 * gradient_BF.square().sum(1).mean() / 5
    assert float(penalty.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    (found,) = torch.autograd.grad(penalty, a_PF, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, a_PF)
    assert torch.allclose(found, wanted)


def test_the_r1_penalty_does_not_shrink_with_the_picture() -> None:
    """Patches that see nothing in common: twice as many have the same slope each."""
    pixels = torch.randn(2, 3, 4, 8).requires_grad_()
    weight = torch.randn(1, 3, 4, 4)
    scores_BP = F.conv2d(pixels, weight, stride=4).flatten(1)
    half = pixels.detach()[..., :4].requires_grad_()
    half_scores_BP = F.conv2d(half, weight, stride=4).flatten(1)
    found = [r1_penalty(scores_BP, pixels), r1_penalty(half_scores_BP, half)]
    expected = 0.5 * float(weight.square().sum())
    assert [float(penalty.detach()) for penalty in found] == pytest.approx([expected] * 2, rel=1e-5)


def test_the_adaptive_weight_is_the_ratio_of_gradients() -> None:
    torch.manual_seed(0)
    last, x = nn.Linear(4, 3, bias=False), torch.randn(5, 4)
    made = last(x)
    reconstruction, adversarial = (made - 1).abs().mean(), -made.square().mean()
    weight, reconstruction_norm, adversarial_norm = adaptive_weight(
        pulls(reconstruction, adversarial, last.weight)
    )
    # d|y - 1| / dy = sign / 15, d(-y^2) / dy = -2 y / 15; both times x.
    by_hand = [
        ((made - 1).sign() / 15).T @ x,
        (-2 * made / 15).T @ x,
    ]
    norms = [float(gradient.norm().detach()) for gradient in by_hand]
    assert float(reconstruction_norm) == pytest.approx(norms[0], rel=1e-5)
    assert float(adversarial_norm) == pytest.approx(norms[1], rel=1e-5)
    assert float(weight) == pytest.approx(norms[0] / (norms[1] + 1e-4), rel=1e-5)
    assert not weight.requires_grad
    assert last.weight.grad is None
    # With the weight, both pull equally (up to the 1e-4).
    pull = torch.autograd.grad(weight * adversarial, last.weight)[0].norm()
    assert float(pull) == pytest.approx(norms[0], rel=1e-3)


def test_the_adaptive_weight_is_bounded() -> None:
    weight = nn.Parameter(torch.ones(2))
    steep, flat = 1e9 * weight.sum(), 0 * weight.sum()
    assert float(adaptive_weight(pulls(steep, flat, weight))[0]) == 1e4
    assert float(adaptive_weight(pulls(steep, flat, weight), 4.0)[0]) == 4.0
    assert float(adaptive_weight(pulls(flat, steep, weight))[0]) == 0.0


def test_pulls_of_shares_add_up() -> None:
    """Norm of the sum, not sum of norms."""
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    reconstruction = (weight * torch.tensor([3.0, 0.0])).sum()
    other = pulls((weight * torch.tensor([0.0, 4.0])).sum(), weight.sum(), weight)
    found = adaptive_weight((pulls(reconstruction, weight.sum(), weight) + other) / 2)
    assert float(found[1]) == pytest.approx(2.5)  # |(1.5, 2)|, where the norms' mean is 3.5
    assert float(found[0]) == pytest.approx(2.5 / (2**0.5 + 1e-4), rel=1e-5)
