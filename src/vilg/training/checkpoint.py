"""Saving and restoring a run, so that resuming is exact.

A checkpoint is a folder `step-NNNNNNNN` with weights, their moving averages and the optimizer as
safetensors. It is written under another name and renamed when whole: a kill at any moment leaves
either the old state or the new one.
"""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vilg.errors import VilgError

_NAME = re.compile(r"step-(\d{8})")
_KEEP = 2


class CheckpointError(VilgError):
    """A checkpoint that is missing or does not fit the run."""


@dataclass
class TrainState:
    """All that must survive a restart, and nothing else.

    Saved: weights and buffers of `module` (codebook averages included), their moving averages, the
    optimizers' moments (one optimizer a turn), the step. Rebuilt: the learning rate, the order of samples and every random
    choice, which are functions of the step (docs/lab/decisions/0001).
    """

    module: nn.Module
    averages: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    step: int = 0  # steps done


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{turn}.{index}.{name}": value
        for turn, optimizer in enumerate(optimizers)
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def save(folder: Path, state: TrainState) -> Path:
    """Write a checkpoint under `folder` and drop all but the last two."""
    target = folder / f"step-{state.step:08d}"
    unfinished = folder / f"{target.name}.incomplete"
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    parts = {
        "weights": state.module.state_dict(),
        "averages": state.averages,
        "optimizer": _optimizer_tensors(state.optimizers),
    }
    try:
        for part, tensors in parts.items():
            # Channels-last weights are not contiguous to safetensors; values and shapes stay.
            packed = {name: value.contiguous() for name, value in tensors.items()}
            save_file(packed, unfinished / f"{part}.safetensors")
    except SafetensorError as error:  # a full disk, above all
        raise CheckpointError(f"cannot write {unfinished}: {error}") from error
    for path in unfinished.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if target.exists():
        shutil.rmtree(target)
    unfinished.rename(target)
    for _, old in _find(folder)[:-_KEEP]:
        shutil.rmtree(old)
    return target


def _find(folder: Path) -> list[tuple[int, Path]]:
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)


def restore(folder: Path, state: TrainState) -> None:
    """Bring back the newest checkpoint under `folder`.

    Raises:
        CheckpointError: none there, a damaged one, or one of another model.
    """
    found = _find(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}: start without --resume")
    step, path = found[-1]
    try:
        weights, averages, moments = (
            load_file(path / f"{part}.safetensors") for part in ("weights", "averages", "optimizer")
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): delete it to use the last one"
        ) from error
    try:
        state.module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise CheckpointError(f"{path} belongs to another model: {reason}") from error
    shapes = {name: value.shape for name, value in averages.items()}
    if shapes != {name: value.shape for name, value in state.averages.items()}:
        raise CheckpointError(
            f"{path} has the averages of another model: delete it, go on from before"
        )
    for name, value in averages.items():
        state.averages[name].copy_(value)
    for turn, optimizer in enumerate(state.optimizers):
        prefix = f"{turn}."
        own = {key.removeprefix(prefix): v for key, v in moments.items() if key.startswith(prefix)}
        _restore_optimizer(optimizer, own, path, may_be_empty=turn > 0)
    state.step = step


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, moments: dict[str, Tensor], path: Path, *, may_be_empty: bool
) -> None:
    """Take over the moments of every weight; only a turn that has not begun may have none."""
    saved: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        index, name = key.split(".", 1)
        saved.setdefault(int(index), {})[name] = value
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    fits = all(
        0 <= index < len(weights) and own["exp_avg"].shape == weights[index].shape
        for index, own in saved.items()
        if "exp_avg" in own
    )
    complete = all({"exp_avg", "exp_avg_sq", "step"} <= own.keys() for own in saved.values())
    if not (fits and complete and (saved or may_be_empty)):
        raise CheckpointError(
            f"{path} lacks the optimizer's state of this model: delete it, go on from before"
        )
    values = optimizer.state_dict()
    values["state"] = saved
    optimizer.load_state_dict(values)
    # The fused AdamW walks weight and moments as flat memory: a moment that was saved packed must
    # lie as its channels-last weight does, or it belongs to another element.
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if value.shape == parameter.shape:
                own[name] = torch.empty_like(parameter).copy_(value)
