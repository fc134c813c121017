"""A model on disk: one folder, readable for good.

    config.json                  architecture, sampling defaults, fingerprints (`ModelConfig`)
    image_tokenizer.safetensors  the image tokenizer
    model.safetensors            the generator; absent while only the image tokenizer is trained
    reconstructor.safetensors    the image reconstructor of end-to-end training; absent without it
    tokenizer.json               the text vocabulary; absent likewise
    README.md                    model card

Weights are kept in half precision, those of an imported image tokenizer in single, and all are computed
with in single.
"""

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from vilg.config import from_dict, later_key, to_json
from vilg.errors import SettingError, VilgError
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator, GeneratorConfig
from vilg.model.reconstructor import Reconstructor
from vilg.text import LANGUAGES, TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.tokenizer.sources import SourceError, download, read_safetensors

FORMAT_VERSION = 1
WEIGHTS = ("image_tokenizer.safetensors", "model.safetensors", "reconstructor.safetensors")
FILES = ("config.json", *WEIGHTS, "tokenizer.json", "README.md")
SHIPPED = Path(__file__).parent.parent / "assets" / "emoji-64"

Module = TypeVar("Module", bound=nn.Module)
Settings = TypeVar("Settings")


class ModelError(VilgError):
    """A model folder that is missing, damaged or of another shape."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that config.json says.

    Attributes:
        generator_fingerprint: of the generator's settings, most of which no shape of a weight tells; a
            folder that was written before it came has none and is believed.
        latin_words: pieces of Latin words that Chinese captions have too (`TextTokenizer.latin_words`).
        languages: of the captions that it was trained on; the first is what it describes in unless told.
        believed_from: mean log probability a token from which on a caption is believed; of pictures that the
            model knows nearly all have as much, of pictures without sense few. None believes all.
    """

    image_tokenizer: TokenizerConfig
    image_tokenizer_fingerprint: str
    generator: GeneratorConfig | None = None
    text_tokenizer_fingerprint: str | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    has_reconstructor: bool = later_key(False)
    generator_fingerprint: str | None = later_key(None)
    latin_words: tuple[str, ...] = later_key(())
    languages: tuple[str, ...] = later_key(LANGUAGES)
    believed_from: float | None = later_key(None)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Model:
    """What a folder holds, ready to compute; generator and vocabulary come together or not at all."""

    image_tokenizer: ImageTokenizer
    generator: Generator | None = None
    text_tokenizer: TextTokenizer | None = None
    sampling: SamplingConfig = SamplingConfig()
    reconstructor: Reconstructor | None = None
    latin_words: tuple[str, ...] = ()
    languages: tuple[str, ...] = LANGUAGES
    believed_from: float | None = None


def find_model(model: str | Path | None) -> Path:
    """Return the folder of a model: a folder, a shipped one's name, a hub id "owner/name"; None is `SHIPPED`.

    Raises:
        ModelError: nothing of that name on disk or on the hub.
    """
    if model is None:
        return SHIPPED
    if not isinstance(model, str | PathLike):
        raise ModelError(f"{model!r} names no model: give a folder, a hub id or a shipped name")
    if (Path(model) / "config.json").is_file():
        return Path(model)
    shipped = sorted(path.parent.name for path in SHIPPED.parent.glob("*/config.json"))
    if str(model) in shipped:
        return SHIPPED.parent / model
    if Path(model).exists() or str(model).count("/") != 1 or str(model)[0] in "./~":
        raise ModelError(
            f"no model at {model}: name a folder with a config.json, a hub id, or one that is shipped: "
            f"{', '.join(shipped)}"
        )
    try:
        return download(str(model), list(FILES))
    except SourceError as error:
        raise ModelError(f"no model at {model}: not a folder here, and {error}") from error


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
    except (ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    version = values.get("format_version") if isinstance(values, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path} has format version {version}; this vilg reads {FORMAT_VERSION}: "
            "use the vilg release that wrote it, or export it again"
        )
    try:
        return from_dict(ModelConfig, values)
    except SettingError as error:
        raise ModelError(f"{path}: {error}") from error


def load_model(folder: Path) -> Model:
    """Load a model folder.

    Raises:
        ModelError: files missing or damaged, or weights of another shape than config.json says.
    """
    config = read_config(folder)
    image_tokenizer, stored_as = _load(
        ImageTokenizer, config.image_tokenizer, folder / "image_tokenizer.safetensors"
    )
    image_tokenizer.stored_as = stored_as
    found = image_tokenizer.fingerprint()
    if found != config.image_tokenizer_fingerprint:
        raise ModelError(
            f"{folder}: the image tokenizer's fingerprint is {found}, config.json says "
            f"{config.image_tokenizer_fingerprint:.40}: files of two models are mixed here"
        )
    if config.generator is None:
        return Model(image_tokenizer, sampling=config.sampling)
    text_tokenizer = TextTokenizer.from_file(folder / "tokenizer.json")
    if text_tokenizer.fingerprint != config.text_tokenizer_fingerprint:
        raise ModelError(f"{folder}: tokenizer.json is another vocabulary than config.json names")
    shape = (config.generator.grid_height, config.generator.grid_width, config.generator.num_codes)
    grid, codes = config.image_tokenizer.grid_size, config.image_tokenizer.num_codes
    if shape != (grid, grid, codes) or config.generator.vocabulary_size != len(text_tokenizer):
        raise ModelError(
            f"{folder}: config.json gives the generator other tokens than its tokenizers"
        )
    if config.generator_fingerprint not in (None, _fingerprint(config.generator)):
        raise ModelError(
            f"{folder}: config.json gives the generator other settings than it was made with: "
            "take the config.json that came with its weights"
        )
    generator, _ = _load(Generator, config.generator, folder / "model.safetensors")
    reconstructor = None
    if config.has_reconstructor:
        width = config.generator.width
        reconstructor, _ = _load(
            lambda settings: Reconstructor(width, ImageTokenizer(settings)),
            config.image_tokenizer,
            folder / "reconstructor.safetensors",
        )
    return Model(
        image_tokenizer,
        generator,
        text_tokenizer,
        config.sampling,
        reconstructor,
        config.latin_words,
        config.languages,
        config.believed_from,
    )


def _load(
    build: Callable[[Settings], Module], config: Settings, path: Path
) -> tuple[Module, torch.dtype]:
    """Build a module without initial weights, and load those of a file in single precision.

    Returns:
        The module, and the precision of the file.
    """
    try:
        with torch.device("meta"):
            module = build(config)
    # A number that no tensor can have is a TypeError, or a MemoryError.
    except (ValueError, RuntimeError, ArithmeticError, TypeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"config.json beside {path} describes no network: {reason}") from error
    try:
        weights = read_safetensors(path)
    except SourceError as error:
        raise ModelError(str(error)) from error
    for name, value in weights.items():
        if not value.is_floating_point():
            raise ModelError(f"{path}: {name} is {value.dtype}; weights are floating-point numbers")
    state = {name: value.float() for name, value in weights.items()}
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"{path}: {name} has values that are no numbers: get the file again")
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = shorten(" ".join(lines[1:3]), 300)
        raise ModelError(f"{path} does not fit its config.json: {reason}") from error
    # Only convolutions have weights that this changes; they are twice as fast so on a CPU.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    single = any(value.dtype == torch.float32 for value in weights.values())
    return module.eval().requires_grad_(False), torch.float32 if single else torch.float16


def save_model(folder: Path, model: Model) -> None:
    """Write a model folder; what is there already is replaced when all is written.

    Weights are written in half precision, those of an image tokenizer as its `stored_as` says. The
    fingerprints are those of the rounded weights, which is what anybody will load.

    Raises:
        ModelError: the files cannot be written, or a weight is no number or too large for its precision;
            then nothing is.
    """
    modules = zip(
        WEIGHTS, (model.image_tokenizer, model.generator, model.reconstructor), strict=True
    )
    weights = {
        file: _packed(module, getattr(module, "stored_as", torch.float16))
        for file, module in modules
        if module is not None
    }
    rounded = copy.deepcopy(model.image_tokenizer).to(model.image_tokenizer.stored_as).float()
    config = ModelConfig(
        image_tokenizer=model.image_tokenizer.config,
        image_tokenizer_fingerprint=rounded.fingerprint(),
        generator=model.generator.config if model.generator else None,
        text_tokenizer_fingerprint=model.text_tokenizer.fingerprint
        if model.text_tokenizer
        else None,
        sampling=model.sampling,
        has_reconstructor=model.reconstructor is not None,
        generator_fingerprint=_fingerprint(model.generator.config) if model.generator else None,
        latin_words=model.latin_words,
        languages=model.languages,
        believed_from=model.believed_from,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
            for file, state in weights.items():
                save_file(state, Path(name) / file)
            if model.text_tokenizer is not None:
                model.text_tokenizer.save(Path(name) / "tokenizer.json")
            (Path(name) / "config.json").write_text(to_json(config), encoding="utf-8")
            # A folder without config.json is no model: it goes first and comes last, so that a
            # broken-off save is never taken for a model.
            for old in ("config.json", *WEIGHTS, "tokenizer.json"):
                (folder / old).unlink(missing_ok=True)
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name == "config.json"):
                path.chmod(0o644)
                path.rename(folder / path.name)
    except (SafetensorError, OSError) as error:  # a full disk, above all
        raise ModelError(f"cannot write the model to {folder}: {error}") from error


def _packed(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    weights = {name: value.to(dtype).contiguous() for name, value in state.items()}
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ModelError(
                f"{name} of the {type(module).__name__} reaches {float(state[name].abs().max()):g} and is "
                f"stored as numbers up to {torch.finfo(dtype).max:g}: "
                "train anew with a lower optim.peak_lr, in another --out"
            )
    return weights


def _fingerprint(config: GeneratorConfig) -> str:
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:16]


def weights_hash(folder: Path) -> str:
    """Identify the weights of a model folder, for manifests and picture metadata."""
    digest = hashlib.sha256()
    for path in (folder / name for name in WEIGHTS):
        if path.exists():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
