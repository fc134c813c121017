"""Saving and restoring a run, so that resuming is exact, with any number of processes.

A checkpoint is a folder `step-NNNNNNNN` of safetensors, to which every process writes its shards and of which
every process reads what it needs (`torch.distributed.checkpoint`). It is written under another name and renamed
when all of them have written: a kill at any moment leaves either the old state or the new one.
"""

import math
import re
import shutil
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from vilg.errors import VilgError
from vilg.parallel import is_first, meet, num_processes, patient_group
from vilg.progress import Progress

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

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint holds, by name: `weights.`, `averages.` and `moments.`"""
        names = {id(weight): name for name, weight in self.module.named_parameters()}
        return {
            **{f"weights.{name}": value for name, value in self.module.state_dict().items()},
            **{f"averages.{name}": value for name, value in self.averages.items()},
            **{
                f"moments.{names[id(weight)]}.{kind}": value
                for optimizer in self.optimizers
                for weight, moments in optimizer.state.items()
                for kind, value in moments.items()
            },
        }


def save(folder: Path, state: TrainState) -> Path:
    """Write a checkpoint under `folder` and drop all but the last two.

    Raises:
        CheckpointError: a process could not write its part, in all of them.
    """
    target = folder / f"step-{state.step:08d}"
    unfinished = folder / f"{target.name}.incomplete"
    if is_first():
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    meet()
    # Channels-last weights are not contiguous to safetensors; values and shapes stay.
    tensors = {name: value.contiguous() for name, value in state.tensors().items()}
    writer = HuggingFaceStorageWriter(str(unfinished), save_distributed=True)
    try:
        with _alone_is_fine():
            save_shards(tensors, storage_writer=writer, process_group=patient_group())
    except CheckpointException as error:  # a full disk, above all
        if is_first():  # and all have tried
            shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(f"cannot write {unfinished}: {_first_reason(error)}") from error
    if is_first():
        if target.exists():
            shutil.rmtree(target)
        unfinished.rename(target)
        for old in list(find(folder).values())[:-_KEEP]:
            shutil.rmtree(old)
    meet()
    return target


def find(folder: Path) -> dict[int, Path]:
    """Return the whole checkpoints under a folder by their steps, the newest last."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def restore(folder: Path, state: TrainState) -> None:
    """Bring back the newest checkpoint under `folder`, whatever number of processes has written it.

    Raises:
        CheckpointError: none there, a damaged one, or one of another model.
    """
    found = find(folder)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}: start without --resume")
    step = max(found)
    read(found[step], state.tensors(), together=num_processes() > 1)
    state.step = step


def read(
    path: Path, tensors: dict[str, Tensor], beginning: str = "", *, together: bool = False
) -> None:
    """Fill tensors, or this process's shards of them, from a checkpoint by any number of processes.

    Args:
        beginning: of their names; nothing else in the checkpoint may begin so.
        together: all processes read, each what it needs, and all or none go on; else the one that asks, alone.

    Raises:
        CheckpointError: a damaged checkpoint, or one of another model.
    """
    reader = HuggingFaceStorageReader(str(path))
    try:
        stored = _stored(reader.read_metadata(), beginning)
        _check_same_model(path, stored, tensors)
        with Progress("tensors", what="reading") as progress, _alone_is_fine():
            load_shards(
                tensors,
                storage_reader=reader,
                planner=_Told(progress),
                process_group=patient_group() if together else None,
                no_dist=not together,
            )
    except (CheckpointException, SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        # Ctrl-C inside of it comes out as an error that names it.
        if "KeyboardInterrupt" in repr(error):
            raise KeyboardInterrupt from error
        reason = _first_reason(error) if isinstance(error, CheckpointException) else error
        raise CheckpointError(
            f"{path} is damaged ({reason}): delete it to use the last one"
        ) from error


class _Told(DefaultLoadPlanner):
    """Reads as torch does, and says how far the first process is."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress, self.done, self.total = progress, 0, 0

    def finish_plan(self, new_plan: LoadPlan) -> LoadPlan:
        self.total = len(new_plan.items)
        return super().finish_plan(new_plan)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        self.done += 1
        if is_first():
            self.progress(self.done, self.total)


def _stored(metadata: Metadata, beginning: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a checkpoint holds under names of a beginning.

    Raises:
        ValueError: it lacks one process's files, so that a tensor has holes.
    """
    shapes = {}
    for name, tensor in metadata.state_dict_metadata.items():
        if not name.startswith(beginning):
            continue
        assert isinstance(tensor, TensorStorageMetadata)  # safetensors hold nothing else
        if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.size):
            raise ValueError(f"a part of {name} is missing")
        shapes[name] = tuple(tensor.size)
    return shapes


def _check_same_model(
    path: Path, found: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]
) -> None:
    """Refuse a checkpoint of other tensors, naming the first that differs."""
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            there, here = (
                f"shape {shapes[name]}" if name in shapes else "nothing"
                for shapes in (found, expected)
            )
            raise CheckpointError(
                f"{path} belongs to another model, or lacks files: {name} has {there} there and {here} "
                "here: delete it to use the last one, or start a new --out"
            )


def _first_reason(error: CheckpointException) -> str:
    """Return what went wrong in the first process in which anything did."""
    rank, (reason, _) = min(error.failures.items())
    return f"process {rank}: {reason}"


def _alone_is_fine() -> AbstractContextManager[object]:
    """Leave out the warning that one process alone reads or writes."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
