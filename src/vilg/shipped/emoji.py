"""Where the emoji pictures and their vocabulary lie, and the recipes by name; help needs no torch."""

from pathlib import Path

from vilg.recipes import OWN_AND_PAPER, Named

_PACKAGE = Path(__file__).parents[1]

EMOJI = _PACKAGE.parents[1] / "datasets" / "emoji"  # of a clone; a wheel has no pictures
VOCABULARY = _PACKAGE / "assets" / "emoji-64" / "tokenizer.json"

RECIPES = {
    named.name: named
    for named in (
        Named(
            name="emoji_cpu_tiny",
            module="vilg.shipped.recipes",
            summary="tokenizer and generator on 256 pictures of food: a first run, which draws brownish blots",
            time="3 min",
        ),
        Named(
            name="emoji_cpu_tiny_e2e",
            module="vilg.shipped.recipes",
            summary="the same, and a reconstructor that learns with the generator",
            time="2 to 5 min",
        ),
        Named(
            name="emoji_tokenizer",
            module="vilg.shipped.recipes",
            summary="the shipped image tokenizer's first stage; runs/emoji_cpu.sh has the others",
            time="50 min on one core with bf16",
        ),
        Named(
            name="emoji_cpu",
            module="vilg.shipped.recipes",
            summary="the shipped generator's first stage; runs/emoji_cpu.sh has the others",
            time="100 min on one core with bf16",
        ),
        *OWN_AND_PAPER,
    )
}
