"""Where the emoji pictures and their vocabulary lie; apart, because help needs no torch."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

EMOJI = _PACKAGE.parents[1] / "datasets" / "emoji"  # of a clone; a wheel has no pictures
VOCABULARY = _PACKAGE / "assets" / "emoji-64" / "tokenizer.json"
