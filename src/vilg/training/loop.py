"""The training loop of every model here: tokenizer and generator alike.

for each turn (for each micro-batch and loss: forward, backward; clip, check, step), follow, average, log, save, show

A loss is a share's part of a sum over the whole batch, so that gradients of micro-batches and of processes are
summed. Nothing is read from a device but on steps that are logged or saved; on a CPU, where reading costs
nothing, every step is checked.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Protocol, TextIO

import torch
from torch import Tensor, nn

from vilg.config import check_counts, require
from vilg.parallel import WHOLE, Share, is_first, meet, own_shares, sum_over_processes
from vilg.training.checkpoint import TrainState, restore, save
from vilg.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    hold_when_broken,
    learning_rate,
    sum_gradients,
    update_ema,
)
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
        accumulate: micro-batches a step in each process: more take less memory, and give the same gradients.
        show_every: steps between sample pictures; 0 shows none.
        precision: bf16 pays where the processor computes it (avx512_bf16, amx, GPUs) and is slower
            elsewhere.
    """

    num_steps: int
    batch_size: int
    accumulate: int = 1
    log_every: int = 50
    show_every: int = 0
    save_every: int = 500
    seed: int = 0
    precision: TrainingPrecision = TrainingPrecision.FP32

    def __post_init__(self) -> None:
        check_counts(self, batch_size=2**20, num_steps=2**40, log_every=2**40, save_every=2**40)
        check_counts(self, accumulate=2**20)
        require(
            self.batch_size % self.accumulate == 0,
            f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}",
        )
        require(0 <= self.seed < 2**63, "seed must be from 0 to 2^63 - 1")
        require(self.show_every >= 0, "show_every must be 0 or more")


@dataclass(frozen=True)
class Turn:
    """One network's update within a step.

    Attributes:
        name: goes before the names of what it logs; "" for the first.
        module: all that this turn trains. Nothing else that is trained gets a gradient from its loss.
        losses: each a share's part of a loss of the step's batch, with its part of the values worth logging;
            None where there is nothing of it, or while the turn has not begun. What is minimised is their sum;
            each is gone back through before the next is computed, so that only one fills memory.
        first_step: at which it begins, and its learning rate with it.
        clipped_apart: parts of `module`, all of it together, whose gradients are clipped each by
            itself, so that a loss that does not reach one cannot slow it down; none clips the whole.
    """

    name: str
    module: nn.Module
    losses: Sequence[Callable[[int, Share], tuple[Tensor, dict[str, Tensor]] | None]]
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

    def after_step(self, step: int) -> dict[str, Tensor]:
        """Update what gradients do not; return more values to log, the same in every process."""

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people if what was logged looks wrong."""

    def show(self, step: int, folder: Path) -> None:
        """Write samples for people to look at; called in every process, and written by the first."""


def take_turn(
    turn: Turn,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    step: int,
    precision: TrainingPrecision = TrainingPrecision.FP32,
    shares: Sequence[Share] = (WHOLE,),
    is_read: bool = True,
) -> dict[str, float]:
    """Update one network by the sum of the gradients of all shares of all processes.

    Args:
        shares: this process's micro-batches.
        is_read: whether the values of the step are wanted; reading them waits for the device.

    Returns:
        values for the log, those of the whole batch, or none.

    Raises:
        NonFiniteLoss: before the weights are touched.
    """
    parameters = [parameter for parameter in turn.module.parameters() if parameter.requires_grad]
    device = parameters[0].device.type
    total: dict[str, Tensor] = {}
    for share, compute in product(shares, turn.losses):
        with torch.autocast(device, torch.bfloat16, enabled=precision is TrainingPrecision.BF16):
            computed = compute(step, share)
        if computed is None:
            continue
        loss, parts = computed
        loss.backward()
        for name, value in ({"loss": loss.detach()} | parts).items():
            total[name] = total[name] + value if name in total else value
    if not total:
        return {}
    sum_gradients(parameters)
    grad_norm = clip_gradients(turn.clipped_apart or (turn.module,), config.clip_norm)
    if device != "cpu":
        grad_norm = hold_when_broken(optimizer, grad_norm)
    logged: dict[str, float] = {}
    if is_read or device == "cpu":
        values = sum_over_processes(torch.stack([value.float() for value in total.values()]))
        logged = dict(zip([*total, "grad_norm"], [*values.tolist(), float(grad_norm)], strict=True))
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
    shares = own_shares(loop.accumulate)
    averages = {name: value.clone() for name, value in job.module.state_dict().items()}
    state = TrainState(job.module, averages, [optimizer for _, optimizer, _ in turns])
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        restore(folder / "checkpoints", state)
    tracker = (
        Tracker(folder, loop.num_steps, loop.batch_size, state.step, out) if is_first() else None
    )

    job.module.train()
    while state.step < loop.num_steps:
        done = state.step + 1
        is_last = done == loop.num_steps
        is_logged, is_saved = (
            is_last or done % often == 0 for often in (loop.log_every, loop.save_every)
        )
        values: dict[str, float] = {}
        for turn, optimizer, optim in turns:
            steps_ago = max(0, state.step - turn.first_step)
            lr = learning_rate(optim, steps_ago, loop.num_steps - turn.first_step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            is_read = is_logged or is_saved
            values |= take_turn(turn, optimizer, optim, state.step, loop.precision, shares, is_read)
        more = job.after_step(state.step)
        update_ema(state.averages, job.module, optims[0].ema_decay, state.step)
        state.step = done

        if is_logged and tracker is not None:
            values |= {name: float(value) for name, value in more.items()}
            values["lr"] = learning_rate(optims[0], state.step - 1, loop.num_steps)
            tracker.log(state.step, values, job.alarm(values) or _gradient_alarm(values))
        if is_saved:
            save(folder / "checkpoints", state)
        if loop.show_every and state.step % loop.show_every == 0:
            with torch.no_grad():  # sharded weights know no inference mode
                job.module.eval()
                job.show(state.step, folder / "samples")
                job.module.train()
            meet()
    job.module.load_state_dict(state.averages)
    return state


def _gradient_alarm(values: dict[str, float]) -> str | None:
    """Return a line for people when a network gets no gradient at all, and so learns nothing."""
    names = [name for name, value in values.items() if name.endswith("grad_norm") and value == 0]
    return f"gradient alarm: {names[0]} is 0, so nothing is learnt" if names else None
