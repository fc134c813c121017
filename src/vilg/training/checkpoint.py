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
from safetensors.torch import save_file
from torch import Tensor, nn

from vilg.errors import VilgError
from vilg.tokenizer.sources import SourceError, read_safetensors

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
            read_safetensors(path / f"{part}.safetensors")
            for part in ("weights", "averages", "optimizer")
        )
    except SourceError as error:
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
    names = {id(weight): name for name, weight in state.module.named_parameters()}
    for turn, optimizer in enumerate(state.optimizers):
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        # A weight that no gradient has reached is its own average, and has no moments.
        moved = {
            index
            for index, parameter in enumerate(parameters)
            if not torch.equal(parameter, state.averages[names[id(parameter)]])
        }
        own = {key: value for key, value in moments.items() if key.startswith(f"{turn}.")}
        shapes = {key: value.shape for key, value in own.items()}
        has_moments = {index for index in range(len(parameters)) if f"{turn}.{index}.step" in own}
        expected = {
            f"{turn}.{index}.{name}": torch.Size() if name == "step" else parameters[index].shape
            for index in has_moments
            for name in ("step", "exp_avg", "exp_avg_sq")
        }
        if shapes != expected or not moved <= has_moments or not (own or turn > 0):
            raise CheckpointError(
                f"{path} lacks the optimizer's state of this model: delete it, go on from before"
            )
        _restore_optimizer(optimizer, own)
    state.step = step


def _restore_optimizer(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    saved: dict[int, dict[str, Tensor]] = {}
    for key, value in moments.items():
        _, index, name = key.split(".")
        saved.setdefault(int(index), {})[name] = value
    values = optimizer.state_dict()
    values["state"] = saved
    optimizer.load_state_dict(values)
    # The fused AdamW walks weight and moments as flat memory: a moment that was saved packed must
    # lie as its channels-last weight does, or it belongs to another element.
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if value.shape == parameter.shape:
                own[name] = torch.empty_like(parameter).copy_(value)
