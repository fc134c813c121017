"""The training loop of every model here: tokenizer and generator alike.

for each turn (loss, backward, clip, check, step), follow, average, log, save, show
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import Tensor, nn

from vilg.config import check_counts, require
from vilg.parallel import mean_over_processes
from vilg.training.checkpoint import TrainState, restore, save
from vilg.training.optim import OptimConfig, build_optimizer, learning_rate, update_ema
from vilg.training.tracking import Tracker, check_finite


class TrainingPrecision(StrEnum):
    """What matrix products and convolutions are computed in, and so what passes between convolutions.

    Weights, moments, softmax, norms of the generator, losses and the search for codes are in fp32. On a CPU the
    scores of few keys are rounded before the softmax (docs/lab/decisions/0008).
    """

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how often.

    Attributes:
        num_steps: steps in all.
        log_every: steps between lines of the log.
        save_every: steps between checkpoints.
        seed: of the order of the data, of every random choice and of the first weights.
        batch_size: samples a step, over all processes; part of the recipe, not of the machine.
        show_every: steps between sample pictures; 0 shows none.
        precision: bf16 pays where the processor computes it (avx512_bf16, amx, GPUs) and is slower
            elsewhere.
    """

    num_steps: int
    batch_size: int
    log_every: int = 50
    show_every: int = 0
    save_every: int = 500
    seed: int = 0
    precision: TrainingPrecision = TrainingPrecision.FP32

    def __post_init__(self) -> None:
        check_counts(self, batch_size=2**20, num_steps=2**40, log_every=2**40, save_every=2**40)
        require(0 <= self.seed < 2**63, "seed must be from 0 to 2^63 - 1")
        require(self.show_every >= 0, "show_every must be 0 or more")


@dataclass(frozen=True)
class Turn:
    """One network's update within a step.

    Attributes:
        name: goes before the names of what it logs; "" for the first.
        module: all that this turn trains. Nothing else gets a gradient from its loss.
        loss: of the step's batch, with the parts worth logging; None while the turn has not begun.
        first_step: at which it begins, and its learning rate with it.
        clipped_apart: parts of `module`, all of it together, whose gradients are clipped each by
            itself, so that a loss that does not reach one cannot slow it down; none clips the whole.
    """

    name: str
    module: nn.Module
    loss: Callable[[int], tuple[Tensor, dict[str, Tensor]] | None]
    first_step: int = 0
    clipped_apart: Sequence[nn.Module] = ()


class Job(Protocol):
    """What is trained. Every job computes everything about a step from its number."""

    @property
    def module(self) -> nn.Module:
        """All that is trained or carried over by a checkpoint."""

    @property
    def turns(self) -> Sequence[Turn]:
        """What a step updates, in this order."""

    def after_step(self, step: int) -> dict[str, float]:
        """Update what gradients do not; return more values to log."""

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people if what was logged looks wrong."""

    def show(self, step: int, folder: Path) -> None:
        """Write samples for people to look at."""


def take_turn(
    turn: Turn,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    step: int,
    precision: TrainingPrecision = TrainingPrecision.FP32,
) -> dict[str, float]:
    """Update one network; return its values for the log, means over all processes.

    Raises:
        NonFiniteLoss: before the weights are touched.
    """
    parameters = [parameter for parameter in turn.module.parameters() if parameter.requires_grad]
    device = parameters[0].device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision is TrainingPrecision.BF16):
        computed = turn.loss(step)
    if computed is None:
        return {}
    loss, parts = computed
    loss.backward(inputs=parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, mean in zip(gradients, mean_over_processes(gradients), strict=True):
        gradient.copy_(mean)
    norms = [
        nn.utils.clip_grad_norm_(part.parameters(), config.clip_norm)
        for part in turn.clipped_apart or (turn.module,)
    ]
    grad_norm = torch.stack(norms).norm()
    names, values = ["loss", *parts], [loss.detach(), *parts.values()]
    logged = dict(zip(names, map(float, mean_over_processes(values)), strict=True))
    logged["grad_norm"] = float(grad_norm)
    check_finite(step, logged)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {f"{turn.name}_{name}" if turn.name else name: value for name, value in logged.items()}


def train(
    job: Job,
    loop: LoopConfig,
    optims: Sequence[OptimConfig],
    folder: Path,
    *,
    resume: bool = False,
    out: TextIO = sys.stdout,
) -> TrainState:
    """Run the job to its last step, from the newest checkpoint if asked.

    Args:
        optims: one for each of the job's turns; the first one's `ema_decay` is the averages'.
        folder: gets `log.jsonl`, `checkpoints/` and `samples/`.

    Raises:
        CheckpointError: nothing to resume from.
        NonFiniteLoss: before the weights are touched.
    """
    turns = [
        (turn, build_optimizer(optim, turn.module), optim)
        for turn, optim in zip(job.turns, optims, strict=True)
    ]
    averages = {name: value.clone() for name, value in job.module.state_dict().items()}
    state = TrainState(job.module, averages, [optimizer for _, optimizer, _ in turns])
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        restore(folder / "checkpoints", state)
    tracker = Tracker(folder, loop.num_steps, loop.batch_size, state.step, out)

    job.module.train()
    while state.step < loop.num_steps:
        values: dict[str, float] = {}
        for turn, optimizer, optim in turns:
            steps_ago = max(0, state.step - turn.first_step)
            lr = learning_rate(optim, steps_ago, loop.num_steps - turn.first_step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            values |= take_turn(turn, optimizer, optim, state.step, loop.precision)
        values |= job.after_step(state.step)
        update_ema(state.averages, job.module, optims[0].ema_decay, state.step)
        state.step += 1

        if state.step % loop.log_every == 0 or state.step == loop.num_steps:
            values["lr"] = learning_rate(optims[0], state.step - 1, loop.num_steps)
            tracker.log(state.step, values, job.alarm(values))
        if state.step % loop.save_every == 0 or state.step == loop.num_steps:
            save(folder / "checkpoints", state)
        if loop.show_every and state.step % loop.show_every == 0:
            with torch.inference_mode():
                job.module.eval()
                job.show(state.step, folder / "samples")
                job.module.train()
    job.module.load_state_dict(state.averages)
    return state
