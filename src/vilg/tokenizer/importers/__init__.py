"""Published image tokenizers as VQGANs of ours: taming-transformers, LlamaGen, diffusers.

files.py     reads weights and settings without running what is in them
names.py     which of their names stands for each of ours
settings.py  which of their settings says what, and which of them cannot be computed here
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from vilg.tokenizer.importers.files import ImporterError, find_files, read_settings, read_weights
from vilg.tokenizer.importers.names import Imported
from vilg.tokenizer.importers.settings import diffusers, llamagen, taming

__all__ = ["Imported", "ImporterError", "Origin", "import_tokenizer", "origin_of"]


class Origin(StrEnum):
    """Whose names the weights have."""

    TAMING = "taming"
    LLAMAGEN = "llamagen"
    DIFFUSERS = "diffusers"


FORMATS = {Origin.TAMING: taming, Origin.LLAMAGEN: llamagen, Origin.DIFFUSERS: diffusers}

# How the names of the encoder's and the decoder's levels begin.
MARKS = {
    Origin.TAMING: ("encoder.down.", "decoder.up."),
    Origin.LLAMAGEN: ("encoder.conv_blocks.", "decoder.conv_blocks."),
    Origin.DIFFUSERS: ("encoder.down_blocks.", "decoder.up_blocks."),
}


def origin_of(state: Mapping[str, Tensor]) -> Origin | None:
    """Return whose names these are, or None if nobody's."""
    found = [
        origin for origin, marks in MARKS.items() if any(name.startswith(marks) for name in state)
    ]
    return found[0] if len(found) == 1 else None


def import_tokenizer(
    source: str,
    origin: Origin | None = None,
    settings: Path | None = None,
    image_size: int | None = None,
) -> Imported:
    """Read a published image tokenizer: a file, a folder or a hub id (`find_files`).

    Args:
        origin: None goes by the names of the weights.
        settings: file of the published settings; None takes those that lie beside the weights.
        image_size: side of the pictures, if it is to be another than the settings say, or they say none.

    Raises:
        ImporterError: files that cannot be read, do not fit together, or are something else.
    """
    weights, beside = find_files(source)
    state = read_weights(weights)
    found = origin_of(state)
    if found is None or origin not in (None, found):
        are = f"those of {found}" if found else "not known"
        advice = (
            f"say --kind {found}, or nothing" if found else "name a whole image tokenizer's file"
        )
        raise ImporterError(
            f"the names in {weights} are {are}, and not those of {origin or ' or '.join(Origin)}; "
            f"the first is {next(iter(state), 'missing')}: {advice}"
        )
    file = settings or beside
    values = read_settings(file) if file else None
    try:
        return FORMATS[found](state, values, image_size)
    except ImporterError as error:
        raise ImporterError(f"{source}: {error}") from error
