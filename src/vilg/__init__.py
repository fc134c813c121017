"""vilg: one transformer that turns text into images and images into text (ERNIE-ViLG)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vilg.api import Score, Vilg
    from vilg.errors import VilgError

__all__ = ["Score", "Vilg", "VilgError", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the public names when they are first used: `import vilg` alone stays cheap."""
    if name in ("Score", "Vilg"):
        from vilg import api

        return getattr(api, name)
    if name == "VilgError":
        from vilg.errors import VilgError

        return VilgError
    raise AttributeError(f"module 'vilg' has no attribute {name!r}")
