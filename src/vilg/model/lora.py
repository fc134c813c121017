"""Adapters of low rank (LoRA, arXiv 2106.09685): W x + (alpha / r) B A x, where W stays as it is.

    adapter_config.json         rank, alpha, projections and base, as peft writes them
    adapter_model.safetensors   base_model.model.MODULE.lora_A.weight and .lora_B.weight, in fp32

Any model's adapter may have fitting shapes, so the file's head also says which shape, words and codes its base
has. peft reads the folder as its own and overlooks that; an adapter that peft wrote has none and is believed.

Shape letters: I inputs, O outputs, R rank.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from vilg.config import check_counts, require
from vilg.files import write_whole
from vilg.model.folder import Model, ModelError, shape_fingerprint
from vilg.model.generator import Generator
from vilg.tokenizer.sources import SourceError, download, opened

PROJECTIONS = ("qkv", "out", "mlp_in", "mlp_out")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MARKS = "vilg_base"
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# Of peft's settings, those whose adapters are more than B A.
_MORE = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """An adapter's size.

    Attributes:
        rank: of the change that each projection learns.
        alpha: the change is multiplied by alpha / rank.
        projections: which of a layer's: qkv and out of the attention, mlp_in and mlp_out of the feed-forward network.
    """

    rank: int = 8
    alpha: float = 16.0
    projections: tuple[str, ...] = PROJECTIONS

    def __post_init__(self) -> None:
        check_counts(self, rank=2**12)
        require(0 < self.alpha < math.inf, "alpha must be more than 0, and finite")
        require(
            bool(self.projections) and {*self.projections} <= {*PROJECTIONS},
            f"projections must be some of {', '.join(PROJECTIONS)}",
        )


class LoRALinear(nn.Linear):
    """A linear layer whose own weights stay, and what is learnt beside them; it begins as the layer alone.

    Args:
        random: where A is drawn from, evenly between -1 and 1 over the root of I, as peft draws it.
    """

    def __init__(
        self,
        plain: nn.Linear,
        config: LoRAConfig,
        random: torch.Generator,
        device: torch.device | None = None,
    ):
        super().__init__(plain.in_features, plain.out_features, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self.config = config
        self.lora_A = nn.Linear(plain.in_features, config.rank, bias=False, device="meta")
        self.lora_B = nn.Linear(config.rank, plain.out_features, bias=False, device="meta")
        device = device or plain.weight.device
        bound = plain.in_features**-0.5
        a_RI = torch.empty(self.lora_A.weight.shape).uniform_(-bound, bound, generator=random)
        self.lora_A.weight = nn.Parameter(a_RI.to(device))
        b_OR = torch.zeros(self.lora_B.weight.shape, device=device)
        self.lora_B.weight = nn.Parameter(b_OR)

    def forward(self, input: Tensor) -> Tensor:
        scale = self.config.alpha / self.config.rank
        return super().forward(input) + scale * self.lora_B(self.lora_A(input))


def add_lora(
    generator: Generator, config: LoRAConfig, seed: int = 0, device: torch.device | None = None
) -> nn.Module:
    """Put an adapter beside the projections of every layer, in place; only it learns from now on.

    Args:
        device: of the adapter; None is that of the weights that it stands beside.

    Returns:
        the adapter alone, as `adapter_of`.
    """
    random = torch.Generator().manual_seed(seed)
    generator.requires_grad_(False)
    for name, part in list(generator.transformer.named_modules(prefix="transformer")):
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in config.projections:
            generator.set_submodule(name, LoRALinear(part, config, random, device))
    return adapter_of(generator)


def adapter_of(generator: Generator) -> nn.Module:
    """Return the adapter alone: its parts, shared, under the names that they have in the generator."""
    adapter = nn.Module()
    for name, adapted in generator.named_modules():
        if isinstance(adapted, LoRALinear):
            place = adapter
            for step in name.split("."):
                if step not in place._modules:
                    place.add_module(step, nn.Module())
                place = place.get_submodule(step)
            place.add_module("lora_A", adapted.lora_A)
            place.add_module("lora_B", adapted.lora_B)
    return adapter


def first_adapter(generator: Generator, seed: int) -> list[tuple[str, nn.Parameter]]:
    """Return the first weights by name of an adapter that a generator has, or none; whole, wherever its own lie."""
    config = lora_of(generator)
    if config is None:
        return []
    with torch.device("meta"):
        plain = Generator(generator.config)
    return list(add_lora(plain, config, seed, torch.device("cpu")).named_parameters())


@torch.no_grad()
def fold_lora(generator: Generator) -> None:
    """Make the sums plain weights again; nothing that the generator computes changes."""
    for name, part in list(generator.named_modules()):
        if isinstance(part, LoRALinear):
            scale = part.config.alpha / part.config.rank
            plain = nn.Linear(part.in_features, part.out_features, device="meta")
            weight_OI = part.weight + scale * (part.lora_B.weight @ part.lora_A.weight)
            plain.weight, plain.bias = nn.Parameter(weight_OI, requires_grad=False), part.bias
            generator.set_submodule(name, plain)


def lora_of(generator: Generator) -> LoRAConfig | None:
    """Return what `add_lora` was told; None of a generator without an adapter."""
    parts = (part for part in generator.modules() if isinstance(part, LoRALinear))
    return next((part.config for part in parts), None)


def write_adapter(
    folder: Path, config: LoRAConfig, weights: Mapping[str, Tensor], base: Model, name: str
) -> None:
    """Write an adapter's folder; one that is there is replaced.

    Args:
        weights: by the names that `add_lora` returns them under.
        base: the model that it belongs to, which it knows by shape, words and codes.
        name: of the base, where people look for it.

    Raises:
        ModelError: the files cannot be written.
    """
    settings = {
        "auto_mapping": None,
        "base_model_name_or_path": name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.rank,
        "revision": None,
        "target_modules": sorted(config.projections),
        "task_type": None,
    }
    state = {
        f"base_model.model.{key}": value.detach().to("cpu", torch.float32).contiguous()
        for key, value in weights.items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The order of several keys would be left to chance.
        write_whole(folder / WEIGHTS, save(state, {_MARKS: json.dumps(_marks(base))}))
        write_whole(folder / CONFIG, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot write the adapter to {folder}: {error}") from error


def _marks(model: Model) -> dict[str, str]:
    """Return what tells a base from others in which the same shapes would mean something else."""
    assert model.generator is not None and model.text_tokenizer is not None
    return {
        "shape": shape_fingerprint(model.generator.config),
        "vocabulary": model.text_tokenizer.fingerprint,
        "image tokenizer": model.image_tokenizer.fingerprint(),
    }


@torch.no_grad()
def merge_adapters(model: Model, given: Sequence[str | Path]) -> str:
    """Add adapters to a model's own weights, in place, so that it computes as fast as before.

    Args:
        given: "ADAPTER" or "ADAPTER=WEIGHT" each: a folder, its file of weights, or a hub id.

    Returns:
        what identifies these adapters with their weights.

    Raises:
        ModelError: one is missing, damaged, or of another model.
    """
    if model.generator is None:
        raise ModelError("an image tokenizer alone takes no adapter: name a model with a generator")
    told = []
    for each in given:
        folder, weight = _find_adapter(each)
        for name, change_OI in _read_changes(folder, model).items():
            linear = model.generator.get_submodule(name)
            assert isinstance(linear.weight, Tensor)
            merged_OI = linear.weight.float() + weight * change_OI.to(linear.weight.device)
            linear.weight.copy_(merged_OI)
        told.append(f"{hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()} {weight!r}")
    return "\n".join(told)


def _find_adapter(given: str | Path) -> tuple[Path, float]:
    """Return an adapter's folder and its weight."""
    place, equals, number = str(given).rpartition("=")
    weight = 1.0
    if not equals or Path(given).exists():
        place = str(given)
    else:
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        require(
            math.isfinite(weight), f"{given}: an adapter's weight is a number, as in {place}=0.8"
        )
    path = Path(place)
    folder = path.parent if path.is_file() else path
    if (folder / CONFIG).is_file():
        return folder, weight
    if path.exists() or place.count("/") != 1 or place[0] in "./~":
        raise ModelError(f"no adapter at {place}: name a folder with an {CONFIG}, or a hub id")
    try:
        return download(place, [CONFIG, WEIGHTS]), weight
    except SourceError as error:
        raise ModelError(f"no adapter at {place}: not a folder here, and {error}") from error


def _read_settings(path: Path) -> dict[str, Any]:
    """Return an adapter's settings, of which rank and alpha are numbers."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = values["r"], values["lora_alpha"]
        if values["peft_type"] != "LORA" or not (type(rank) is int and 0 < rank <= 2**12):
            raise ValueError("peft_type must be LORA, and r a number from 1 on")
        if not (type(alpha) in (int, float) and math.isfinite(alpha)):
            raise ValueError("lora_alpha must be a number")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} does not describe a LoRA adapter: {error}") from error
    more = [key for key in _MORE if values.get(key)]
    more += ["bias"] if values.get("bias", "none") != "none" else []
    if more:
        raise ModelError(
            f"{path} sets {more[0]}, and only plain LoRA is merged here: train it without"
        )
    return values


def _read_changes(folder: Path, model: Model) -> dict[str, Tensor]:
    """Return change_OI of each module that an adapter changes, at weight 1."""
    settings, path = _read_settings(folder / CONFIG), folder / WEIGHTS
    rank, generator = settings["r"], model.generator
    assert generator is not None
    linears = {n: part for n, part in generator.named_modules() if isinstance(part, nn.Linear)}
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with opened(path) as file:
            marks = (file.metadata() or {}).get(_MARKS, "{}")
            _check_marks(folder, settings, marks, _marks(model))
            for key in file.offset_keys():
                match = _KEY.fullmatch(key)
                if not match or match[1] not in linears:
                    raise ModelError(f"{path} is of another model: there is no {key:.100} here")
                linear, value = linears[match[1]], file.get_tensor(key).float()
                is_a = match[2] == "A"
                wanted = (rank, linear.in_features) if is_a else (linear.out_features, rank)
                if tuple(value.shape) != wanted:
                    raise ModelError(
                        f"{path} is of another model or rank: {key} is {list(value.shape)} and must be "
                        f"{list(wanted)}"
                    )
                if not bool(value.isfinite().all()):
                    raise ModelError(f"{path}: {key} has values that are no numbers: get it again")
                parts.setdefault(match[1], {})[match[2]] = value
    except SourceError as error:
        raise ModelError(str(error)) from error
    if lacking := [name for name, both in parts.items() if len(both) < 2]:
        raise ModelError(f"{path} has half of {lacking[0]}: get it again")
    if not parts:
        raise ModelError(f"{path} has no weights: get it again")
    scale = settings["lora_alpha"] / rank
    return {name: scale * (both["B"] @ both["A"]) for name, both in parts.items()}


def _check_marks(
    folder: Path, settings: Mapping[str, Any], written: str, here: Mapping[str, str]
) -> None:
    """Refuse an adapter whose file says that its base is another; one that says nothing is believed."""
    try:
        found = {**json.loads(written)}
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder / WEIGHTS} is damaged ({error}): get it again") from error
    for what, mark in here.items():
        if found.get(what, mark) != mark:
            raise ModelError(
                f"{folder} is an adapter of a model of another {what}: name its base by --model "
                f"({settings.get('base_model_name_or_path')})"
            )
