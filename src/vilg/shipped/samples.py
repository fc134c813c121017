"""Which pictures an evaluation looks at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from vilg.data.order import permute
from vilg.data.pairs import DataError, Pair
from vilg.data.shards import list_splits, load_split
from vilg.data.sources import load_pairs
from vilg.sampling.precision import Precision
from vilg.text import LANGUAGES, TextTokenizer

Item = TypeVar("Item")

TRAIN = "train"
TAGS = ("style", "concept", *(f"name.{lang}" for lang in LANGUAGES))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured, and how.

    Attributes:
        only: "tag=value" each: measured are pairs that have one of the values given for each tag.
        splits: names of the splits to measure; None takes all that there are.
        limit: pictures a split for every score; None takes the numbers below.
        num_train: pictures of the train split; the other splits are small and taken whole.
        num_ranked: pictures a split whose names are ranked, which costs the most.
        num_drawn: prompts a split that are drawn, 60 candidates each.
        num_pairs: pairs of the train split that are compared with shuffled ones.
        choice_seed: which pictures.
        shuffle_seed: who is paired with whom.
        subset_seed: which subsets give kernel distances their standard error.
        precision: how the generator's weights are multiplied, or what a search for tokens computes in; None
            is the device's usual one, and fp32 of a search.
        refine_steps: by which a tokenizer's tokens are refined before they are decoded.
    """

    only: tuple[str, ...] = ()
    splits: tuple[str, ...] | None = None
    limit: int | None = None
    num_train: int = 500
    num_ranked: int = 50
    num_drawn: int = 50
    num_pairs: int = 500
    choice_seed: int = 0
    shuffle_seed: int = 0
    subset_seed: int = 0
    precision: Precision | None = None
    refine_steps: int = 0

    def num_pictures(self, split: str) -> int | None:
        """Return how many pictures of a split are measured; None is all."""
        return self.limit or (self.num_train if split == TRAIN else None)


@dataclass(frozen=True)
class Splits:
    """The pictures of a data set.

    Attributes:
        samples: all that have the tags asked for, whatever their split.
        whole: the splits that are not empty, by name.
        chosen: what is measured of each, in an order that makes any beginning a fair sample.
    """

    samples: list[Pair]
    whole: dict[str, list[Pair]]
    chosen: dict[str, list[Pair]]


def choose(items: Sequence[Item], num: int | None, seed: int) -> list[Item]:
    """Return `num` of the items, or all, in an order that the seed decides.

    A larger number begins with what a smaller one returns.
    """
    total = len(items)
    positions = np.arange(total if num is None else min(num, total), dtype=np.int64)
    return [items[i] for i in permute(positions, total, seed, epoch=0)]


def read_splits(folder: Path, settings: Settings) -> Splits:
    """Read a data set and choose the pictures.

    Raises:
        DataError: no data set there, no pair with such a tag, no such split, nothing of what was asked for in
            the train split, or a pair that lacks what the suites look at.
    """
    samples = load_pairs(folder, only=settings.only)
    known = {f"{tag}={value}" for sample in samples for tag, value in sample.tags.items()}
    for condition in settings.only:
        if condition not in known:
            raise DataError(f"{folder}: no pair to measure has {condition}, see vilg data stats")
    for sample in samples:
        if lacking := {*TAGS, *LANGUAGES} - {*sample.tags, *sample.captions}:
            raise DataError(
                f"{folder}: {sample.id} has no {min(lacking)}: the suites need captions in "
                f"{' and '.join(LANGUAGES)} and the tags {', '.join(TAGS)}"
            )
    by_id = {sample.id: sample for sample in samples}
    # The train split first, and even if there is none: the error names what there is.
    names = [TRAIN, *(name for name in list_splits(folder) if name != TRAIN)]
    ids = {name: [id for id in load_split(folder, name) if id in by_id] for name in names}
    whole = {name: [by_id[id] for id in sorted(ids[name])] for name in names if ids[name]}
    if TRAIN not in whole:
        raise DataError(f"{folder}: its train split has no picture of those asked for")
    for name in settings.splits or ():
        if name not in whole:
            raise DataError(
                f"{folder}: no pictures of those asked for in a split {name!r}; the splits are "
                f"{', '.join(whole)}"
            )
    chosen = {
        name: choose(members, settings.num_pictures(name), settings.choice_seed)
        for name, members in whole.items()
        if not settings.splits or name in settings.splits
    }
    return Splits(samples, whole, chosen)


def encode_captions(
    samples: Sequence[Pair], lang: str, tokenizer: TextTokenizer, max_text: int
) -> list[list[int]]:
    """Return each sample's caption in tokens.

    Raises:
        DataError: a caption longer than the model reads, language or end token included.
    """
    texts = [tokenizer.encode(sample.captions[lang][0]) for sample in samples]
    for sample, text in zip(samples, texts, strict=True):
        if len(text) >= max_text:
            raise DataError(
                f"{sample.id}: its {lang} caption has {len(text)} tokens and this model reads "
                f"{max_text - 1}: leave the sample out of the splits"
            )
    return texts


def positions_by_style(samples: Sequence[Pair]) -> Mapping[str, list[int]]:
    """Return where the samples of each style stand, styles in alphabetical order."""
    rows: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows.setdefault(sample.tags["style"], []).append(i)
    return dict(sorted(rows.items()))
