"""Weights of one network on disk: a file of safetensors, or shards with an index as the Hub has them.

    model.safetensors                   where all of them fit into one shard; else
    model-00001-of-00003.safetensors    and so on, and
    model.safetensors.index.json        {"metadata": {"total_size": bytes}, "weight_map": {name: file}}

They are read and written one shard at a time, so that memory holds no second copy of them. What a file
must hold is known from its head, before any weight is read; whatever it lacks is one sentence.
"""

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vilg.errors import VilgError
from vilg.progress import Progress
from vilg.tokenizer.sources import SourceError, opened

SHARD_BYTES = 4 * 10**9
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# As the head of a file names them.
_CODES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Module = TypeVar("Module", bound=nn.Module)


class ModelError(VilgError):
    """A model folder that is missing, damaged or of another shape."""


def name_of(dtype: torch.dtype) -> str:
    """Return what a precision is called here: fp32, fp16 or bf16."""
    return next(name for name, each in DTYPES.items() if each is dtype)


def patterns_of(stem: str) -> tuple[str, str, str]:
    """Return patterns of all files that a network's weights may lie in: alone, shards, their index."""
    return (
        f"{stem}.safetensors",
        f"{stem}-?????-of-?????.safetensors",
        f"{stem}.safetensors.index.json",
    )


def weight_files(folder: Path, stem: str) -> list[Path]:
    """Return the files that hold a network's weights, in their order; none where it has none."""
    alone, shards, _ = patterns_of(stem)
    return [*folder.glob(alone), *sorted(folder.glob(shards))]


def read_weights(
    build: Callable[[], Module],
    folder: Path,
    stem: str,
    *,
    stored_as: torch.dtype | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Module, torch.dtype]:
    """Build a network without initial weights, and give it those of its files.

    Args:
        stored_as: what the files must be in; None takes any one of `DTYPES`.
        dtype: of the weights in memory.

    Returns:
        The network, ready to compute, and the precision of its files.

    Raises:
        ModelError: settings of no network; files that are missing, damaged, in another precision or of
            another network; weights that are no numbers, or too large for `dtype`.
    """
    alone, _, index = (folder / pattern for pattern in patterns_of(stem))
    try:
        with torch.device("meta"):
            module = build()
    # A number that no tensor can have is a TypeError, or a MemoryError.
    except (ValueError, RuntimeError, ArithmeticError, TypeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"config.json beside {alone} describes no network: {reason}") from error
    try:
        heads = _read_shards(index, alone) if index.exists() else {alone: _read_head(alone)}
        found = _check_heads(module, heads, stored_as)
        _fill(module, heads, dtype, device)
    except SourceError as error:
        raise ModelError(str(error)) from error
    # Only convolutions have weights that this changes; they are twice as fast so on a CPU.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.eval().requires_grad_(False), found


# Precision and shape of each weight of a file.
_Head = dict[str, tuple[str, list[int]]]


def _read_head(path: Path) -> _Head:
    with opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        return {name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()}


def _read_shards(index: Path, alone: Path) -> dict[Path, _Head]:
    """Return what is in the shards that an index names; each must hold what it says, and no more."""
    if alone.exists():
        raise ModelError(f"{alone} and {index.name} are of two models: take away the wrong one")
    places = _read_index(index)
    heads = {}
    for file in sorted(set(places.values())):
        if not fnmatch(file, patterns_of(alone.stem)[1]) or "/" in file:
            raise ModelError(f"{index} names {file!r:.60}, which is no shard of it: get it again")
        heads[index.parent / file] = _read_head(index.parent / file)
    held = {(name, path.name) for path, head in heads.items() for name in head}
    if wrong := sorted(held ^ places.items()):
        name, file = wrong[0]
        raise ModelError(
            f"{index} and {file} do not agree on whether {name} is there: get both again"
        )
    return heads


def _read_index(index: Path) -> dict[str, str]:
    """Return the file of each weight."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"{max(names, key=names.count)} is there twice")
        return dict(pairs)

    try:
        values = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=once)
        places = values["weight_map"]
        if not all(isinstance(file, str) for file in places.values()):
            raise ValueError("its weight_map names no files")
    except OSError as error:
        raise ModelError(f"cannot read {index}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no index of weights ({error}): get it again") from error
    return places


def _check_heads(
    module: nn.Module, heads: Mapping[Path, _Head], stored_as: torch.dtype | None
) -> torch.dtype:
    """See that the files hold each weight of a module in its shape; return their precision."""
    wanted = {name: list(value.shape) for name, value in module.state_dict().items()}
    found = set()
    for path, head in heads.items():
        for name, (code, shape) in head.items():
            if name not in wanted:
                raise ModelError(
                    f"{path} does not fit its config.json: {name} is not of this model"
                )
            if shape != wanted[name]:
                raise ModelError(
                    f"{path} does not fit its config.json: {name} is {shape} and must be {wanted[name]}"
                )
            stored_as = stored_as or _CODES.get(code)
            if _CODES.get(code) is not stored_as or stored_as is None:
                expected = name_of(stored_as) if stored_as else "fp32, fp16 or bf16"
                raise ModelError(f"{path}: {name} is in {code}, and must be in {expected}")
            found.add(name)
    if missing := [name for name in wanted if name not in found]:
        raise ModelError(
            f"{next(iter(heads))} does not fit its config.json: {missing[0]} is missing"
        )
    assert stored_as is not None  # no network is without weights
    return stored_as


def _fill(
    module: nn.Module,
    heads: Mapping[Path, _Head],
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Assign a module its weights, a file after the other."""
    done, total = 0, sum(len(head) for head in heads.values())
    with Progress("weights", what="reading") as progress:
        for path, head in heads.items():
            state = {}
            with opened(path) as file:
                for name in head:
                    value = _converted(file.get_tensor(name), dtype, f"{path}: {name}")
                    state[name] = value.to(device)
                    done += 1
                    progress(done, total)
            module.load_state_dict(state, strict=False, assign=True)


def _converted(value: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    converted = value.to(dtype)
    if bool(converted.isfinite().all()):
        return converted
    if bool(value.isfinite().all()):
        raise ModelError(
            f"{what} reaches {float(value.abs().max()):g}, more than {name_of(dtype)} holds: load it in bf16"
        )
    raise ModelError(f"{what} has values that are no numbers: get the file again")


def check_storable(module: nn.Module, dtype: torch.dtype) -> None:
    """Refuse weights that are no numbers, or too large for a precision.

    Raises:
        ModelError: names the first.
    """
    state = module.state_dict()
    with Progress("weights", what="checking") as progress:
        for done, (name, value) in enumerate(state.items(), start=1):
            progress(done, len(state))
            if bool(value.to(dtype).isfinite().all()):
                continue
            advice = "store it in bf16, or " if bool(value.isfinite().all()) else ""
            raise ModelError(
                f"{name} of the {type(module).__name__} reaches {float(value.abs().max()):g} and is stored "
                f"as numbers up to {torch.finfo(dtype).max:g}: {advice}train anew with a lower "
                "optim.peak_lr, in another --out"
            )


def write_weights(
    folder: Path, stem: str, module: nn.Module, dtype: torch.dtype, shard_bytes: int
) -> None:
    """Write a network's weights into a folder that has none.

    Raises:
        SafetensorError, OSError: they cannot be written, and some may be there.
    """
    # Here, because it is slow to import and only needed for this.
    from huggingface_hub import split_torch_state_dict_into_shards

    state = module.state_dict()
    index = patterns_of(stem)[2]
    split = split_torch_state_dict_into_shards(
        {name: value.to("meta", dtype) for name, value in state.items()},
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=shard_bytes,
    )
    with Progress("files", what="writing") as progress:
        for done, (file, names) in enumerate(split.filename_to_tensors.items(), start=1):
            # Channels-last weights are not contiguous to safetensors; values and shapes stay.
            packed = {name: state[name].to("cpu", dtype).contiguous() for name in names}
            save_file(packed, folder / file)
            progress(done, len(split.filename_to_tensors))
    if split.is_sharded:
        content = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(content, indent=2, sort_keys=True)
        (folder / index).write_text(text + "\n", encoding="utf-8")
