"""A model on disk: one folder, readable for good.

    config.json                  architecture, sampling defaults, fingerprints (`ModelConfig`)
    image_tokenizer.safetensors  the image tokenizer
    model.safetensors            the generator; absent while only the image tokenizer is trained
    reconstructor.safetensors    the image reconstructor of end-to-end training; absent without it
    tokenizer.json               the text vocabulary; absent likewise
    README.md                    model card

Weights of more than a shard lie in several files with an index (`vilg.model.weights`). They are kept in the
precision that config.json says, half unless told, and those of an image tokenizer in that of its own file.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError

from vilg.config import from_dict, later_key, require, to_json
from vilg.errors import SettingError
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator, GeneratorConfig
from vilg.model.reconstructor import Reconstructor
from vilg.model.weights import (
    DTYPES,
    SHARD_BYTES,
    check_storable,
    name_of,
    patterns_of,
    read_weights,
    weight_files,
    write_weights,
)
from vilg.model.weights import ModelError as ModelError
from vilg.text import LANGUAGES, TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.tokenizer.sources import SourceError, download

FORMAT_VERSION = 1
NETWORKS = ("image_tokenizer", "model", "reconstructor")
# Patterns of their names; config.json is first, and README.md is never ours.
FILES = (
    "config.json",
    *(pattern for network in NETWORKS for pattern in patterns_of(network)),
    "tokenizer.json",
)
SHIPPED = Path(__file__).parent.parent / "assets" / "emoji-64"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that config.json says.

    Attributes:
        generator_fingerprint: of the generator's settings, most of which no shape of a weight tells; a
            folder that was written before it came has none and is believed.
        latin_words: pieces of Latin words that Chinese captions have too (`TextTokenizer.latin_words`).
        languages: of the captions that it was trained on; the first is what it describes in unless told.
        answer_languages: of the questions that it was trained to answer; none where it never was.
        believed_from: mean log probability a token from which on a caption is believed; of pictures that the
            model knows nearly all have as much, of pictures without sense few. None believes all.
        dtype: of the weights of generator and reconstructor in their files; fp32, fp16 or bf16.
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
    dtype: str = later_key("fp16")
    answer_languages: tuple[str, ...] = later_key(())
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Model:
    """What a folder holds, ready to compute; no generator is without its vocabulary.

    Attributes:
        stored_as: precision of generator and reconstructor in the model's files, where those of the image
            tokenizer have one of its own.
    """

    image_tokenizer: ImageTokenizer
    generator: Generator | None = None
    text_tokenizer: TextTokenizer | None = None
    sampling: SamplingConfig = SamplingConfig()
    reconstructor: Reconstructor | None = None
    latin_words: tuple[str, ...] = ()
    languages: tuple[str, ...] = LANGUAGES
    believed_from: float | None = None
    stored_as: torch.dtype = torch.float16
    answer_languages: tuple[str, ...] = ()


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
        return download(str(model), [*FILES, "README.md"])
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


def load_model(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Model:
    """Load a model folder.

    Args:
        dtype: of the generator's weights in memory. Those of the image tokenizer and the reconstructor are
            in single precision always: tokens and pixels are data.

    Raises:
        ModelError: files missing or damaged, or weights of another shape than config.json says.
    """
    config = read_config(folder)
    image_tokenizer, stored_as = read_weights(
        lambda: ImageTokenizer(config.image_tokenizer), folder, "image_tokenizer"
    )
    image_tokenizer.stored_as = stored_as
    found = image_tokenizer.fingerprint()
    if found != config.image_tokenizer_fingerprint:
        raise ModelError(
            f"{folder}: the image tokenizer's fingerprint is {found}, config.json says "
            f"{config.image_tokenizer_fingerprint:.40}: files of two models are mixed here"
        )
    image_tokenizer.to(device)
    text_tokenizer, generator, reconstructor = None, None, None
    stored_as = DTYPES[config.dtype]
    if config.text_tokenizer_fingerprint is not None:
        text_tokenizer = TextTokenizer.from_file(folder / "tokenizer.json")
        if text_tokenizer.fingerprint != config.text_tokenizer_fingerprint:
            raise ModelError(
                f"{folder}: tokenizer.json is another vocabulary than config.json names"
            )
    if config.generator is not None:
        _check_generator(folder, config, text_tokenizer)
        shape = config.generator
        generator, _ = read_weights(
            lambda: Generator(shape),
            folder,
            "model",
            stored_as=stored_as,
            dtype=dtype,
            device=device,
        )
    if config.generator is not None and config.has_reconstructor:
        width = config.generator.width
        reconstructor, _ = read_weights(
            lambda: Reconstructor(width, ImageTokenizer(config.image_tokenizer)),
            folder,
            "reconstructor",
            stored_as=stored_as,
            device=device,
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
        stored_as,
        config.answer_languages,
    )


def _check_generator(folder: Path, config: ModelConfig, words: TextTokenizer | None) -> None:
    """Refuse a generator of other tokens than those of its tokenizers, or with changed settings."""
    assert config.generator is not None
    shape = (config.generator.grid_height, config.generator.grid_width, config.generator.num_codes)
    grid, codes = config.image_tokenizer.grid_size, config.image_tokenizer.num_codes
    size = len(words) if words else None
    if shape != (grid, grid, codes) or config.generator.vocabulary_size != size:
        raise ModelError(
            f"{folder}: config.json gives the generator other tokens than its tokenizers"
        )
    if config.generator_fingerprint not in (None, shape_fingerprint(config.generator)):
        raise ModelError(
            f"{folder}: config.json gives the generator other settings than it was made with: "
            "take the config.json that came with its weights"
        )


def save_model(folder: Path, model: Model, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model folder; what is there already is replaced when all is written.

    Each network is written as its `stored_as` says. The image tokenizer's fingerprint is that of the
    rounded weights, which is what anybody will load.

    Args:
        shard_bytes: largest file; a single weight may be larger.

    Raises:
        ModelError: the files cannot be written, or a weight is no number or too large for its precision;
            then nothing is.
    """
    modules = (model.image_tokenizer, model.generator, model.reconstructor)
    networks = {
        name: (module, getattr(module, "stored_as", model.stored_as))
        for name, module in zip(NETWORKS, modules, strict=True)
        if module is not None
    }
    for module, dtype in networks.values():
        check_storable(module, dtype)
    config = ModelConfig(
        image_tokenizer=model.image_tokenizer.config,
        image_tokenizer_fingerprint=model.image_tokenizer.fingerprint(),
        generator=model.generator.config if model.generator else None,
        text_tokenizer_fingerprint=model.text_tokenizer.fingerprint
        if model.text_tokenizer
        else None,
        sampling=model.sampling,
        has_reconstructor=model.reconstructor is not None,
        generator_fingerprint=shape_fingerprint(model.generator.config)
        if model.generator
        else None,
        latin_words=model.latin_words,
        languages=model.languages,
        believed_from=model.believed_from,
        dtype=name_of(model.stored_as),
        answer_languages=model.answer_languages,
    )
    # A folder that is still to be made is made when all is written beside it.
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".unfinished-") as name:
            for network, (module, dtype) in networks.items():
                write_weights(Path(name), network, module, dtype, shard_bytes)
            if model.text_tokenizer is not None:
                model.text_tokenizer.save(Path(name) / "tokenizer.json")
            (Path(name) / "config.json").write_text(to_json(config), encoding="utf-8")
            folder.mkdir(parents=True, exist_ok=True)
            # A folder without config.json is no model: it goes first and comes last, so that a
            # broken-off save is never taken for a model.
            for pattern in FILES:
                for old in folder.glob(pattern):
                    old.unlink()
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name == "config.json"):
                path.chmod(0o644)
                path.rename(folder / path.name)
    except (SafetensorError, OSError) as error:  # a full disk, above all
        raise ModelError(f"cannot write the model to {folder}: {error}") from error


def shape_fingerprint(config: GeneratorConfig) -> str:
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:16]


def weights_hash(folder: Path) -> str:
    """Identify the weights of a model folder, for manifests and picture metadata."""
    digest = hashlib.sha256()
    for path in (path for network in NETWORKS for path in weight_files(folder, network)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
