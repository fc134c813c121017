"""Files of other projects, read without running what is in them: weights, settings, where they lie.

A `.ckpt` or `.pt` file is a pickle, which can run anything when it is read. Only PyTorch's reader for
weights is used here, which runs nothing and refuses the rest.
"""

import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from vilg.errors import VilgError
from vilg.tokenizer.sources import SourceError, download, read_safetensors

# The names that diffusers gives to the files of every model.
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
DIFFUSERS_SETTINGS = "config.json"

_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")

# Where a training checkpoint keeps its weights: LlamaGen's averages, which its evaluation takes too, or
# else its weights; PyTorch Lightning's (taming-transformers).
_HOLDERS = ("ema", "model", "state_dict")


class ImporterError(VilgError):
    """A published image tokenizer that cannot be read, or that is none of ours under other names."""


def find_files(source: str) -> tuple[Path, Path | None]:
    """Return the files of weights and, if they lie together, of settings.

    Args:
        source: a file of weights; a folder as diffusers writes it; or a hub id of such a folder,
            "owner/name" or "owner/name/folder".

    Raises:
        ImporterError: nothing of that name, or a folder without these files.
    """
    path = Path(source)
    if path.is_file():
        return path, None
    folder = path if path.is_dir() else _download(source)
    weights, settings = folder / DIFFUSERS_WEIGHTS, folder / DIFFUSERS_SETTINGS
    for file in (weights, settings):
        if not file.is_file():
            raise ImporterError(
                f"{source} has no {file.name}: name a file of weights, or a folder of diffusers"
            )
    return weights, settings


def _download(source: str) -> Path:
    owner, _, rest = source.partition("/")
    name, _, folder = rest.partition("/")
    if not (owner and name) or owner[0] in ".~" or source.endswith(_SUFFIXES):
        raise ImporterError(f"no file or folder at {source}: name one, or a hub id")
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    files = [prefix + DIFFUSERS_WEIGHTS, prefix + DIFFUSERS_SETTINGS]
    try:
        return download(f"{owner}/{name}", files) / folder
    except SourceError as error:
        raise ImporterError(f"nothing at {source} here, and {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or the weights of a checkpoint that holds nothing but plain data.

    Raises:
        ImporterError: it cannot be read, holds Python objects, or no weights.
    """
    if path.suffix == ".safetensors":
        try:
            return read_safetensors(path)
        except SourceError as error:
            raise ImporterError(str(error)) from error
    content = _read_pickle(path)
    for holder in _HOLDERS:
        if isinstance(content, dict) and isinstance(content.get(holder), dict):
            content = content[holder]
            break
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ImporterError(
            f"{path} holds no weights: they are tensors by name, on their own or as one of "
            f"{', '.join(_HOLDERS)}"
        )
    return {str(name): value for name, value in content.items()}


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Of pickles of another make, which it then refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ImporterError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # a damaged pickle can fail as anything
        refused = re.search(r"GLOBAL (\w+)([\w.]+)", str(error))
        if refused is None:
            raise ImporterError(
                f"{path} is damaged, or no file of weights of PyTorch: get it again"
            ) from error
        # Checkpoints of taming-transformers name the class of every callback of Lightning that had a
        # state, above all pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint
        # (flowtyone/ComfyUI-Flowty-LDSR issue 8). LlamaGen's training adds its arguments, an
        # argparse.Namespace (vq_train.py).
        raise ImporterError(
            f"{path} holds Python objects besides weights ({refused[1]}{refused[2]}), and reading "
            "those runs whatever the file says: if you trust it, take the weights out where that can "
            f"do no harm and {refused[1]} is installed, by {conversion(path)} and import the result"
        ) from error


def conversion(path: Path) -> str:
    """Return a command line that takes the weights out of a checkpoint, running what is in it."""
    source, target = json.dumps(str(path)), json.dumps(str(path.with_suffix(".safetensors")))
    code = (
        "import torch; from safetensors.torch import save_file; "
        f'c = torch.load({source}, map_location="cpu", weights_only=False); '
        f"w = next((c[k] for k in {json.dumps(_HOLDERS)} if k in c), c); "
        f"save_file({{k: v.contiguous().clone() for k, v in w.items()}}, {target})"
    )
    return f"python -c {shlex.quote(code)}"


def read_settings(path: Path) -> dict[str, Any]:
    """Read published settings: JSON, or YAML without Python objects.

    Raises:
        ImporterError: it cannot be read or is no set of keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ImporterError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError, MemoryError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise ImporterError(f"{path} is neither JSON nor YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ImporterError(f"{path} has no keys: pass the settings published beside the weights")
    return values
