"""A model on disk: one folder, readable for good.

    config.json                  architecture, sampling defaults, fingerprints (`ModelConfig`)
    image_tokenizer.safetensors  the VQGAN
    model.safetensors            the generator; absent while only the image tokenizer is trained
    tokenizer.json               the text vocabulary; absent likewise
    README.md                    model card

Weights are kept in half precision and computed with in single.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vilg.config import ConfigError, from_dict, to_json
from vilg.errors import VilgError
from vilg.model.generator import Generator, GeneratorConfig
from vilg.text import TextTokenizer
from vilg.tokenizer.vqgan import VQGAN, VQGANConfig

FORMAT_VERSION = 1
SHIPPED = Path(__file__).parent.parent / "assets" / "emoji-64"

Module = TypeVar("Module", bound=nn.Module)


class ModelError(VilgError):
    """A model folder that is missing, damaged or of another shape."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a model samples unless told otherwise; plain sampling is the paper's (section 5)."""

    temperature: float = 1.0
    top_k: int | None = None
    guidance: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that config.json says."""

    image_tokenizer: VQGANConfig
    image_tokenizer_fingerprint: str
    generator: GeneratorConfig | None = None
    text_tokenizer_fingerprint: str | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Model:
    """What a folder holds, ready to compute; generator and vocabulary come together or not at all."""

    image_tokenizer: VQGAN
    generator: Generator | None = None
    text_tokenizer: TextTokenizer | None = None
    sampling: SamplingConfig = SamplingConfig()


def find_model(model: str | Path | None) -> Path:
    """Return the folder of a model: a folder, a hub id "owner/name", or the shipped one for None.

    Raises:
        ModelError: nothing of that name on disk or on the hub.
    """
    if model is None:
        return SHIPPED
    if (Path(model) / "config.json").is_file():
        return Path(model)
    if Path(model).exists() or str(model).count("/") != 1 or str(model)[0] in "./~":
        raise ModelError(f"no model at {model}: name a folder with a config.json, or a hub id")
    try:
        return Path(snapshot_download(str(model)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
        raise ModelError(
            f"no model at {model}: not a folder here, and the hub says: {reason}"
        ) from error


def read_config(folder: Path) -> ModelConfig:
    """Read config.json of a model folder.

    Raises:
        ModelError: missing, not JSON, of a newer format, or with unknown keys.
    """
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format version {version}; this vilg reads {FORMAT_VERSION}: "
            "use the vilg release that wrote it, or export it again"
        )
    try:
        return from_dict(ModelConfig, values)
    except ConfigError as error:
        raise ModelError(f"{path}: {error}") from error


def load_model(folder: Path) -> Model:
    """Load a model folder.

    Raises:
        ModelError: files missing or damaged, or weights of another shape than config.json says.
    """
    config = read_config(folder)
    image_tokenizer = _fill(VQGAN(config.image_tokenizer), folder / "image_tokenizer.safetensors")
    found = image_tokenizer.fingerprint()
    if found != config.image_tokenizer_fingerprint:
        raise ModelError(
            f"{folder}: the image tokenizer's fingerprint is {found}, config.json says "
            f"{config.image_tokenizer_fingerprint}: files of two models are mixed here"
        )
    if config.generator is None:
        return Model(image_tokenizer, sampling=config.sampling)
    text_tokenizer = TextTokenizer.from_file(folder / "tokenizer.json")
    if text_tokenizer.fingerprint != config.text_tokenizer_fingerprint:
        raise ModelError(f"{folder}: tokenizer.json is another vocabulary than config.json names")
    generator = _fill(Generator(config.generator), folder / "model.safetensors")
    return Model(image_tokenizer, generator, text_tokenizer, config.sampling)


def _fill(module: Module, path: Path) -> Module:
    """Load weights of any float type into a module that computes in single precision."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    try:
        module.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ModelError(f"{path} does not fit its config.json: {' '.join(lines[1:3])}") from error
    return module.eval().requires_grad_(False)


def save_model(folder: Path, model: Model) -> None:
    """Write a model folder in half precision; files already there are replaced.

    The fingerprints are those of the rounded weights, which is what anybody will load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounded = VQGAN(model.image_tokenizer.config)
    weights = _halves(model.image_tokenizer)
    rounded.load_state_dict(weights)
    try:
        save_file(weights, folder / "image_tokenizer.safetensors")
        if model.generator is not None:
            assert model.text_tokenizer is not None
            save_file(_halves(model.generator), folder / "model.safetensors")
            model.text_tokenizer.save(folder / "tokenizer.json")
    except SafetensorError as error:  # a full disk, above all
        raise ModelError(f"cannot write weights to {folder}: {error}") from error
    config = ModelConfig(
        image_tokenizer=model.image_tokenizer.config,
        image_tokenizer_fingerprint=rounded.fingerprint(),
        generator=model.generator.config if model.generator else None,
        text_tokenizer_fingerprint=model.text_tokenizer.fingerprint
        if model.text_tokenizer
        else None,
        sampling=model.sampling,
    )
    # Last: a folder without it is no model, so a broken-off save is never loaded.
    (folder / "config.json").write_text(to_json(config), encoding="utf-8")


def _halves(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.half().contiguous() for name, value in module.state_dict().items()}


def weights_hash(folder: Path) -> str:
    """Identify all weights of a model folder, for manifests and picture metadata."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
