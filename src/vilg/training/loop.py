"""The training loop of every model here: tokenizer and generator alike.

load batch, loss, backward, clip, check, step, average, log, show, save
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import Tensor, nn

from vilg.config import require
from vilg.training.checkpoint import TrainState, restore, save
from vilg.training.optim import OptimConfig, build_optimizer, learning_rate, update_ema
from vilg.training.tracking import Tracker, check_finite


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how often.

    Attributes:
        batch_size: samples a step, over all processes; part of the recipe, not of the machine.
        show_every: steps between sample pictures; 0 shows none.
    """

    num_steps: int
    batch_size: int
    log_every: int = 50
    show_every: int = 0
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "log_every", "save_every"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        require(self.show_every >= 0, "show_every must be 0 or more")


class Job(Protocol):
    """What is trained. Both jobs compute everything about a step from its number."""

    @property
    def module(self) -> nn.Module:
        """All that is trained or carried over by a checkpoint."""

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step's batch and the parts worth logging."""

    def after_step(self, step: int) -> dict[str, float]:
        """Update what gradients do not; return more values to log."""

    def show(self, step: int, folder: Path) -> None:
        """Write samples for people to look at."""


def train(
    job: Job,
    loop: LoopConfig,
    optim: OptimConfig,
    folder: Path,
    *,
    resume: bool = False,
    out: TextIO = sys.stdout,
) -> TrainState:
    """Run the job to its last step, from the newest checkpoint if asked.

    Args:
        folder: gets `log.jsonl`, `checkpoints/` and `samples/`.

    Raises:
        CheckpointError: nothing to resume from.
        NonFiniteLoss: before the weights are touched.
    """
    optimizer = build_optimizer(optim, job.module)
    averages = {name: value.clone() for name, value in job.module.state_dict().items()}
    state = TrainState(job.module, averages, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        restore(folder / "checkpoints", state)
    tracker = Tracker(folder, loop.num_steps, loop.batch_size, state.step, out)

    job.module.train()
    while state.step < loop.num_steps:
        lr = learning_rate(optim, state.step, loop.num_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr

        loss, parts = job.loss(state.step)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(job.module.parameters(), optim.clip_norm)
        values = {name: float(part) for name, part in parts.items()}
        values["grad_norm"] = float(grad_norm)
        check_finite(state.step, {"loss": float(loss.detach()), **values})

        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        values |= job.after_step(state.step)
        update_ema(state.averages, job.module, optim.ema_decay, state.step)
        state.step += 1

        if state.step % loop.log_every == 0 or state.step == loop.num_steps:
            tracker.log(state.step, {**values, "lr": lr})
        if state.step % loop.save_every == 0 or state.step == loop.num_steps:
            save(folder / "checkpoints", state)
        if loop.show_every and state.step % loop.show_every == 0:
            with torch.inference_mode():
                job.module.eval()
                job.show(state.step, folder / "samples")
                job.module.train()
    job.module.load_state_dict(state.averages)
    return state
