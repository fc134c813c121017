"""Which samples are held out, decided by hash and never by order.

A sample's place depends only on its own concept and style, and on which other styles show the
concept: adding emoji to a later version of the data set moves no sample between the splits.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

UNSEEN_CONCEPT_SHARE = 0.03
UNSEEN_COMBINATION_SHARE = 0.05
SPLITS = ("train", "unseen_concept", "unseen_combination")


def artist_of(style: str) -> str:
    """Return what is held out together: the two Fluents share their shapes."""
    return style.partition("_")[0]


def draw(purpose: str, name: str) -> float:
    """Return a number in [0, 1) that depends on the two words only."""
    digest = hashlib.sha256(f"vilg-emoji/{purpose}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_samples(samples: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the split of every (concept, style) pair."""
    styles: dict[str, list[str]] = defaultdict(list)
    for concept, style in samples:
        styles[concept].append(style)
    return {
        (concept, style): split
        for concept, its_styles in styles.items()
        for style, split in _split_concept(concept, its_styles).items()
    }


def _split_concept(concept: str, styles: Sequence[str]) -> dict[str, str]:
    if draw("unseen-concept", concept) < UNSEEN_CONCEPT_SHARE:
        return dict.fromkeys(styles, "unseen_concept")
    artists = {artist_of(style) for style in styles}
    held_out = {
        artist
        for artist in artists
        if draw("unseen-combination", f"{concept}/{artist}") < UNSEEN_COMBINATION_SHARE
    }
    if held_out == artists:
        # Nobody would be left to show the concept in training: it would be an unseen concept.
        held_out = set()
    return {
        style: "unseen_combination" if artist_of(style) in held_out else "train" for style in styles
    }
