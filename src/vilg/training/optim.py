"""AdamW, its learning-rate schedule, and gradient clipping."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vilg.config import require


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
    """Decay the weights of linear layers and convolutions; leave gains, biases, embeddings, codes."""
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
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=betas, fused=True)


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
