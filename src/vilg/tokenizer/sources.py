"""Where weights come from: files of safetensors, and the hub. Whatever goes wrong there is one sentence."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vilg.errors import VilgError


class SourceError(VilgError):
    """Weights that cannot be read, or that nobody has."""


def download(id: str, patterns: list[str]) -> Path:
    """Return the folder of a hub id "owner/name"; what lies in the cache is used where the hub fails.

    Raises:
        SourceError: with what the hub says.
    """
    # Hub, network, proxy and their settings fail as httpx, hub, Value-, Import- and OSErrors, some of
    # them while the hub's library is imported.
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(id, allow_patterns=patterns))
    except Exception as error:
        try:
            return Path(snapshot_download(id, allow_patterns=patterns, local_files_only=True))
        except Exception:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SourceError(f"the hub says: {reason} (HF_ENDPOINT, proxy, network?)") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file of weights.

    Raises:
        SourceError: missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # a damaged header can fail as anything
        # Ctrl-C inside of it comes out as an error of its own that names it.
        if "KeyboardInterrupt" in f"{error!r} {error.__cause__!r} {error.__context__!r}":
            raise KeyboardInterrupt from error
        if not isinstance(error, OSError | SafetensorError | ValueError | TypeError | MemoryError):
            raise
        raise SourceError(f"cannot read {path}: {error}") from error
