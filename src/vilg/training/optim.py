"""AdamW, its learning-rate schedule, and gradient clipping."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vilg.config import require
from vilg.parallel import num_processes, sum_over_processes

T = TypeVar("T", bound=Tensor)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay.

    The paper reports none of these; betas are CogView's, the nearest recipe.

    Attributes:
        peak_lr: learning rate after the warm-up.
        final_lr: learning rate at the last step.
        warmup_steps: steps in which the rate rises from 0.
        betas: shares of the past in AdamW's two moments.
        weight_decay: of matrices; biases and norms have none.
        clip_norm: longest gradient; a longer one is shortened to it.
        ema_decay: share of the past in the moving average of the weights, which becomes the model; 0
            takes the weights as they are.
    """

    peak_lr: float = 1e-3
    final_lr: float = 1e-5
    warmup_steps: int = 100
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.04
    clip_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        for name in ("peak_lr", "final_lr", "weight_decay"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must be 0 or more, and finite")
        require(len(self.betas) == 2, "betas must be two numbers")
        require(all(0 <= beta < 1 for beta in self.betas), "betas must be from 0 to under 1")
        require(0 <= self.ema_decay <= 1, "ema_decay must be from 0 to 1")
        require(self.clip_norm > 0, "clip_norm must be more than 0")
        require(self.warmup_steps >= 0, "warmup_steps must be 0 or more")


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """Return the rate of a step, counted from 0: never zero, `final_lr` at the last one."""
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.final_lr + (config.peak_lr - config.final_lr) * cosine


def build_optimizer(config: OptimConfig, module: nn.Module) -> torch.optim.AdamW:
    """Decay the weights of linear layers and convolutions; leave gains, biases, embeddings, codes.

    Every weight has its moments from the beginning, so that all checkpoints of a network hold the same.
    """
    # A weight that is made of others (`shared_codes`) is decayed by its own part of them.
    decayed = [
        parameter
        for part in module.modules()
        if isinstance(part, nn.Linear | nn.Conv2d)
        for name, parameter in part.named_parameters()
        if name in ("weight", "parametrizations.weight.original")
    ]
    chosen = {id(parameter) for parameter in decayed}
    plain = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    groups = [
        {"params": group, "weight_decay": decay}
        for weights, decay in ((decayed, config.weight_decay), (plain, 0.0))
        for group in _apart(weights)
    ]
    betas = (config.betas[0], config.betas[1])
    optimizer = torch.optim.AdamW(groups, lr=config.peak_lr, betas=betas, fused=True)
    for parameter in module.parameters():
        optimizer.state[parameter] = {
            # Single precision counts exactly to 2^24 steps; as AdamW itself has it.
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def _apart(tensors: Sequence[T]) -> list[list[T]]:
    """Part what is sharded over processes from what is not: torch computes on lists of one kind."""
    kinds = [
        [x for x in tensors if isinstance(x, DTensor) is is_sharded] for is_sharded in (True, False)
    ]
    return [kind for kind in kinds if kind]


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum every gradient over all processes; those of sharded weights are so already.

    All of them at once, since each exchange waits for the slowest process. A fault here trains every process
    apart: a weight that some have a gradient of and others don't is one.
    """
    gradients = [
        weight.grad
        for weight in parameters
        if weight.grad is not None and not isinstance(weight, DTensor)
    ]
    if num_processes() == 1 or not gradients:
        return
    flat = sum_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def clip_gradients(modules: Sequence[nn.Module], longest: float) -> Tensor:
    """Shorten the gradient of each module to a length; return the length that all had together.

    Of weights that are sharded over processes too: nothing is read from a device.
    """
    norms = []
    for module in modules:
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        groups = _apart(gradients)
        parts = [nn.utils.get_total_norm(group) for group in groups]
        whole = [part.full_tensor() if isinstance(part, DTensor) else part for part in parts]
        norm = torch.stack(whole).norm() if len(whole) > 1 else whole[0]
        factor = (longest / (norm + 1e-6)).clamp(max=1.0)
        for group in groups:
            torch._foreach_mul_(group, factor)
        norms.append(norm)
    return torch.stack(norms).norm()


def hold_when_broken(optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> Tensor:
    """Keep the weights as they are from the first gradient on that is not finite, without asking the device.

    Returns:
        the length of the gradient, which is no number from then on, so that the next step that is read stops.
    """
    was_broken = getattr(optimizer, "found_inf", torch.zeros_like(grad_norm))
    is_broken = torch.maximum(was_broken, (~grad_norm.isfinite()).to(grad_norm.dtype))
    optimizer.found_inf = is_broken  # type: ignore[attr-defined]  # the fused AdamW then does nothing
    return grad_norm.where(is_broken == 0, torch.nan)


@torch.no_grad()
def update_ema(averages: dict[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    """Move the averages towards the weights; young averages forget faster, so that none is stale.

    Buffers are copied, codebooks among them, by whatever rule they learn: an average of a code before and
    after its restart would be neither.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for name, parameter in module.named_parameters():
        averages[name].lerp_(parameter, 1 - decay)
    for name, buffer in module.named_buffers():
        averages[name].copy_(buffer)
