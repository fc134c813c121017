"""A model out of a run: the averaged weights of one of its checkpoints, and what a model has besides.

What of a model is not learnt lies beside the checkpoints (`Stage.base`), so a checkpoint of any number of
processes is a model without the data, and without a process group.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vilg.config import require
from vilg.model.folder import Model, find_model, load_model, read_config
from vilg.model.generator import Generator
from vilg.model.lora import LoRAConfig, add_lora, fold_lora, write_adapter
from vilg.model.reconstructor import Reconstructor
from vilg.model.weights import DTYPES
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.training.checkpoint import CheckpointError, read
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


def write_trained_adapter(stage: Stage, step: int, folder: Path) -> None:
    """Write what a stage has learnt beside its base by a step."""
    settings, base = stage.settings(), load_model(stage.base)
    assert isinstance(settings, GeneratorRun) and settings.lora is not None
    weights = _adapted(settings.lora, base, stage.checkpoints[step]).state_dict()
    write_adapter(folder, settings.lora, weights, base, settings.init or "")


def _adapted(config: LoRAConfig, base: Model, path: Path) -> nn.Module:
    """Put a checkpoint's adapter beside the layers of its base, and return it."""
    if base.generator is None:
        raise CheckpointError(f"{path} belongs to a run whose base/ is damaged: train anew")
    adapter = add_lora(base.generator, config)
    _fill(adapter, path, "")
    return adapter


def _generator(settings: GeneratorRun, base: Model, path: Path) -> Model:
    if settings.lora is not None:
        _adapted(settings.lora, base, path)
        assert base.generator is not None
        fold_lora(base.generator)
        return base
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
    state = {name: torch.empty(value.shape) for name, value in module.state_dict().items()}
    beginning = f"averages.{prefix}"
    read(path, {f"{beginning}{name}": value for name, value in state.items()}, beginning)
    module.load_state_dict(state, assign=True)
