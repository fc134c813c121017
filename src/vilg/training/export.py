"""A model out of a run: the averaged weights of one of its checkpoints, and what a model has besides.

What of a model is not learnt lies beside the checkpoints (`Stage.base`), so a checkpoint of any number of
processes is a model without the data, and without a process group.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

from vilg.config import require
from vilg.model.folder import Model, find_model, load_model, read_config
from vilg.model.generator import Generator
from vilg.model.reconstructor import Reconstructor
from vilg.model.weights import DTYPES
from vilg.progress import Progress
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.training.checkpoint import CheckpointError
from vilg.training.run_folder import Stage
from vilg.training.settings import GeneratorRun, TokenizerRun
from vilg.training.shared_codes import fold_codes, share_codes


def find_export(source: str, step: int | None = None) -> tuple[Model, str]:
    """Return the model of a run's folder, a stage's, a checkpoint's or a model's, and what was taken.

    Args:
        source: of a run the last stage that has saved something is taken.
        step: of the checkpoint; None takes the last one.

    Raises:
        CheckpointError: none there, a damaged one, or one of another model.
        ModelError: nothing of that name, or a damaged model.
    """
    path = Path(source)
    checkpoint = path.absolute()
    own = Stage(checkpoint.parent.parent)
    if checkpoint in own.checkpoints.values():
        require(step is None, f"{path} is of one step: leave --step out")
        (step,) = (step for step, each in own.checkpoints.items() if each == checkpoint)
        return trained_model(own, step), f"averages of step {step} of {own.folder}"
    stages = [Stage(path / "generator"), Stage(path / "tokenizer"), Stage(path)]
    begun = [stage for stage in stages if stage.has_begun]
    if begun and begun[0].checkpoints:
        step = max(begun[0].checkpoints) if step is None else step
        return trained_model(begun[0], step), f"averages of step {step} of {begun[0].folder}"
    require(step is None, f"{path} has no checkpoints: leave --step out")
    folder = begun[0].model if begun else find_model(source)
    return load_model(folder, dtype=DTYPES[read_config(folder).dtype]), f"weights of {folder}"


def trained_model(stage: Stage, step: int) -> Model:
    """Return a stage's model as it was after a step.

    Raises:
        CheckpointError: none of that step, a damaged one, or one of another model.
    """
    if step not in stage.checkpoints:
        steps = ", ".join(map(str, stage.checkpoints)) or "none"
        raise CheckpointError(f"{stage.folder} has no checkpoint of step {step}: there are {steps}")
    settings, path = stage.settings(), stage.checkpoints[step]
    if isinstance(settings, TokenizerRun):
        return Model(_image_tokenizer(settings, path))
    return _generator(settings, load_model(stage.base), path)


def _image_tokenizer(settings: TokenizerRun, path: Path) -> ImageTokenizer:
    if settings.decoder_only:
        tokenizer = load_model(find_model(settings.init)).image_tokenizer
        _fill(tokenizer.decoder, path, "learner.decoder.")
        tokenizer.stored_as = ImageTokenizer.stored_as  # as of every tokenizer that was trained
        return tokenizer
    with torch.device("meta"):
        tokenizer = ImageTokenizer(settings.model)
    _fill(tokenizer, path, "learner.tokenizer.")
    return tokenizer.eval()


def _generator(settings: GeneratorRun, base: Model, path: Path) -> Model:
    lender, words = base.image_tokenizer, base.text_tokenizer
    if words is None:
        raise CheckpointError(f"{path} belongs to a run whose base/ is damaged: train anew")
    reconstructor = None
    with torch.device("meta"):
        generator = Generator(settings.shape(lender.config, len(words)))
        if settings.share_codes:
            share_codes(generator, torch.empty_like(lender.quantizer.codebook_KD, device="meta"))
        if settings.end_to_end is not None:
            reconstructor = Reconstructor(settings.width, ImageTokenizer(lender.config))
    if reconstructor is None:
        _fill(generator, path, "")
    else:
        learner = nn.ModuleDict({"generator": generator, "reconstructor": reconstructor})
        _fill(learner, path, "learner.")
        reconstructor.eval()
    if settings.share_codes:
        fold_codes(generator)
    return replace(base, generator=generator.eval(), reconstructor=reconstructor)


def _fill(module: nn.Module, path: Path, prefix: str) -> None:
    """Give a module that was built on meta its averages of a checkpoint, where their names have a prefix."""
    wanted = {f"{prefix}{name}": value.shape for name, value in module.state_dict().items()}
    averages = _averages(path, wanted, prefix)
    state = {name.removeprefix(prefix): value for name, value in averages.items()}
    module.load_state_dict(state, assign=True)


def _averages(path: Path, wanted: dict[str, torch.Size], prefix: str) -> dict[str, Tensor]:
    """Read averages of any number of processes, in this one; those of the prefix must be all that is wanted."""
    try:
        reader = HuggingFaceStorageReader(str(path))
        kept = {
            name.removeprefix("averages."): entry
            for name, entry in reader.read_metadata().state_dict_metadata.items()
            if name.startswith(f"averages.{prefix}") and isinstance(entry, TensorStorageMetadata)
        }
        _check_shapes(path, wanted, {name: entry.size for name, entry in kept.items()})
        for name, entry in kept.items():
            if sum(chunk.sizes.numel() for chunk in entry.chunks) != entry.size.numel():
                raise ValueError(f"a process's part of {name} is missing")
        averages = {name: torch.empty(shape) for name, shape in wanted.items()}
        total = sum(len(entry.chunks) for entry in kept.values())
        with (
            Progress("parts", what="reading averages") as progress,
            warnings.catch_warnings(action="ignore", category=UserWarning),  # that it is alone
        ):
            planner = _Told(total, progress)
            load({"averages": averages}, storage_reader=reader, planner=planner, no_dist=True)
        return averages
    except (CheckpointException, SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        if "KeyboardInterrupt" in repr(error):
            raise KeyboardInterrupt from error
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged ({reason}): export another step") from error


class _Told(DefaultLoadPlanner):
    """Reads as torch does, and says how far it is."""

    def __init__(self, total: int, progress: Progress):
        super().__init__()
        self.done, self.total, self.progress = 0, total, progress

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        self.done += 1
        self.progress(self.done, self.total)


def _check_shapes(path: Path, wanted: dict[str, torch.Size], found: dict[str, torch.Size]) -> None:
    if wrong := [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]:
        raise CheckpointError(
            f"{path} belongs to another model, or lacks files: {wrong[0]} does not fit"
        )
