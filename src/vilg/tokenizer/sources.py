"""Where weights come from: files of safetensors, and the hub. Whatever goes wrong there is one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vilg.errors import VilgError

# Files that are missing, damaged or larger than memory; and what the hub and its settings fail with too.
_FAILURES = (OSError, ValueError, TypeError, ImportError, MemoryError, RuntimeError, SystemError)


class SourceError(VilgError):
    """Weights that cannot be read, or that nobody has."""


def download(id: str, patterns: list[str]) -> Path:
    """Return the folder of a hub id "owner/name"; what lies in the cache is used where the hub fails.

    Raises:
        SourceError: with what the hub says.
    """
    try:  # some of its settings are read, and refused, as it is imported
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import httpx  # type: ignore[attr-defined]
    except _FAILURES as error:
        raise _as_said(error) from error
    failures = (*_FAILURES, httpx.HTTPError, httpx.InvalidURL)
    try:
        return Path(snapshot_download(id, allow_patterns=patterns))
    except failures as error:
        try:
            return Path(snapshot_download(id, allow_patterns=patterns, local_files_only=True))
        except failures:
            raise _as_said(error) from error


def _as_said(error: Exception) -> SourceError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SourceError(f"the hub says: {reason} (HF_ENDPOINT, proxy, network?)")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file of weights.

    Raises:
        SourceError: missing or damaged.
    """
    with opened(path) as file:
        return file.get_tensors()


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """Open a file of weights, each of which is read as it is asked for.

    Raises:
        SourceError: missing or damaged.
    """
    try:
        # Not mapped: pages that a map touches are memory of the process too.
        with safe_open(path, "pt", backend="pread") as file:
            yield file
    except VilgError:
        raise
    except (SafetensorError, *_FAILURES) as error:
        # Ctrl-C inside of it comes out as an error of its own that names it.
        if "KeyboardInterrupt" in f"{error!r} {error.__cause__!r} {error.__context__!r}":
            raise KeyboardInterrupt from error
        raise SourceError(f"cannot read {path}: {error}") from error
