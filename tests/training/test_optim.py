"""The schedule at its edges, what is decayed, and the moving average's formula."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import SMALL_GENERATOR, SMALL_VQGAN
from vilg.model.generator import Generator
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.training.optim import (
    OptimConfig,
    build_optimizer,
    hold_when_broken,
    learning_rate,
    update_ema,
)

CONFIG = OptimConfig(peak_lr=1.0, final_lr=0.2, warmup_steps=4)


def test_the_schedule_at_its_edges() -> None:
    rates = [learning_rate(CONFIG, step, 15) for step in range(15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0  # the cosine begins at the peak
    assert rates[9] == pytest.approx(0.6)  # and is half way down half way through
    assert rates[14] == pytest.approx(0.2)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[6] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 0.2)))


def test_runs_too_short_for_their_schedule_have_a_rate() -> None:
    for warmup_steps in (0, 1, 4, 9):
        config = OptimConfig(peak_lr=1.0, final_lr=0.2, warmup_steps=warmup_steps)
        for num_steps in (1, 2, 4, 5):
            rates = [learning_rate(config, step, num_steps) for step in range(num_steps)]
            assert all(0 < rate <= 1 for rate in rates)
    # Past the end it stays where it ended.
    assert learning_rate(CONFIG, 40, 15) == pytest.approx(0.2)


@pytest.mark.parametrize("module", [Generator(SMALL_GENERATOR), ImageTokenizer(SMALL_VQGAN)])
def test_norms_biases_and_embeddings_are_not_decayed(module: nn.Module) -> None:
    kinds = {
        f"{name}.{which}": isinstance(part, nn.Linear | nn.Conv2d) and which == "weight"
        for name, part in module.named_modules()
        for which, _ in part.named_parameters(recurse=False)
    }
    assert {*kinds.values()} == {True, False}
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimizer = build_optimizer(OptimConfig(peak_lr=0.5, weight_decay=0.1), module)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that decay is all that happens
    optimizer.step()
    for name, parameter in module.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.1 * kinds[name])
        assert torch.allclose(parameter, expected, atol=0, rtol=1e-6), name


def test_the_optimizer_is_adamw_with_the_settings_given() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -1.0]]))
    module = nn.Linear(2, 1, bias=False)
    module.weight = weight
    lr, b1, b2, decay = 0.1, 0.6, 0.7, 0.3
    config = OptimConfig(peak_lr=lr, betas=(b1, b2), weight_decay=decay)
    optimizer = build_optimizer(config, module)
    expected, m, v = weight.detach().clone(), torch.zeros(1, 2), torch.zeros(1, 2)
    for t, gradient in enumerate(torch.tensor([[[1.0, -3.0]], [[0.5, 2.0]], [[-1.0, 0.1]]]), 1):
        weight.grad = gradient.clone()
        optimizer.step()
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        update = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)
        expected = expected * (1 - lr * decay) - lr * update
        assert torch.allclose(weight.detach(), expected, atol=1e-6)


class Values(nn.Module):
    """A parameter, a float buffer and a counter."""

    floats: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("floats", torch.tensor([3.0]))
        self.register_buffer("count", torch.tensor(5))


def test_averages_follow_the_formula() -> None:
    module, decay = Values(), 0.8
    averages = {name: value.clone() for name, value in module.state_dict().items()}
    expected = {name: value.tolist() for name, value in averages.items()}
    for step in range(60):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([math.sin(step), step]))
            module.floats.fill_(math.cos(step))
            module.count.fill_(step)
        update_ema(averages, module, decay, step)
        # (1 + s) / (10 + s) is under 0.8 for the first 35 steps: 0.1, 2/11, 3/12, ...
        kept = min(decay, (1 + step) / (10 + step))
        for name, value in module.named_parameters():
            pairs = zip(expected[name], value.tolist(), strict=True)
            expected[name] = [kept * old + (1 - kept) * new for old, new in pairs]
        expected["floats"] = [math.cos(step)]  # a buffer is copied
        assert averages["weight"].tolist() == pytest.approx(expected["weight"], rel=1e-5, abs=1e-6)
        assert averages["floats"].tolist() == pytest.approx(expected["floats"], rel=1e-4, abs=1e-6)
        assert averages["count"] == step
    assert kept == decay


def test_weights_stay_from_the_first_gradient_on_that_is_not_finite() -> None:
    """As on a device that is not asked at every step: the step that is read next sees it."""
    weight = nn.Parameter(torch.ones(3))
    module = nn.ParameterList([weight])
    optimizer = build_optimizer(OptimConfig(), module)
    norms, kept = [], []
    for value in (1.0, math.inf, 1.0):
        weight.grad = torch.full((3,), value)
        norms.append(float(hold_when_broken(optimizer, weight.grad.norm())))
        optimizer.step()
        kept.append(weight.detach().clone())
    assert norms[0] == pytest.approx(3**0.5) and math.isnan(norms[1]) and math.isnan(norms[2])
    assert not torch.equal(kept[0], torch.ones(3))
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])
