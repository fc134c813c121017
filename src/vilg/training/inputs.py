"""What runs are trained on: pictures, their tokens, and proof that they stay the same."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilg.config import require
from vilg.data.pictures import is_data_set, list_pictures
from vilg.data.shards import Sample, list_splits, load_samples
from vilg.data.tokens import has_tokens, load_tokens, save_tokens
from vilg.images import to_pixels
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.training.augment import AugmentConfig, augment

TRAIN = "train"

# Pictures that the tokenizer's samples show: held out if the data set holds any out, and far enough
# apart in the list to be of all styles.
SHOWN = "unseen_concept"
SHOWN_STRIDE = 20
NUM_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures.

    Attributes:
        folder: of a data set, or of pictures for a tokenizer.
        groups: names of the groups to train on; None takes all.
        limit: at most this many pictures, for trials.
    """

    folder: Path
    groups: tuple[str, ...] | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit >= 1, "limit must be at least 1, or null")
        require(self.groups is None or bool(self.groups), "groups must name one, or be null")


def data_set_digest(folder: Path) -> str:
    """Identify a data set: the manifest holds the hash of every shard, so of names and keywords too."""
    parts = (folder / "manifest.json", folder / "splits" / f"{TRAIN}.txt")
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


@dataclass(frozen=True)
class Pictures:
    """What an image tokenizer is trained on: samples, or files.

    Attributes:
        shown: the few that samples show; held out, if the data set holds any out.
        digest: of a data set's bytes; of a plain folder, names and sizes of its pictures.
        left_out: how many other files a plain folder has, by suffix.
    """

    training: Sequence[Sample | Path]
    shown: Sequence[Sample | Path]
    digest: str
    left_out: Counter[str]


def read_pictures(data: DataConfig) -> Pictures:
    """Find the pictures of a data set or of any folder."""
    if is_data_set(data.folder):
        samples = load_samples(data.folder, TRAIN, data.groups)[: data.limit]
        split = SHOWN if SHOWN in list_splits(data.folder) else TRAIN
        shown = load_samples(data.folder, split)[::SHOWN_STRIDE][:NUM_SHOWN]
        return Pictures(samples, shown, data_set_digest(data.folder), Counter())
    require(data.groups is None, f"{data.folder} is a plain folder, it has no groups")
    found, left_out = list_pictures(data.folder)
    lines = [f"{file.relative_to(data.folder)} {file.stat().st_size}\n" for file in found]
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    files = found[: data.limit]
    return Pictures(files, files[:: max(1, len(files) // NUM_SHOWN)][:NUM_SHOWN], digest, left_out)


def moved_tokens(
    tokenizer: ImageTokenizer,
    pictures_SYX3: NDArray[np.uint8],
    seed: int,
    config: AugmentConfig,
    step: int,
    ids: NDArray[np.int64],
) -> Tensor:
    """Return the tokens of a batch's pictures, image_ids_BN, as they are moved about at a step."""
    return tokenizer.encode(
        to_pixels(augment(pictures_SYX3[ids], seed, step, ids, config))
    ).flatten(1)


def stored_tokens(
    store: Path, ids: Sequence[str], by: str, make: Callable[[], NDArray[np.uint16]]
) -> NDArray[np.uint16]:
    """Return every picture's ids from the store, which is made where there is none.

    Args:
        ids: of the samples, one a row.
        by: what makes the tokens; a store of another is refused.
    """
    if not has_tokens(store):
        save_tokens(store, ids, make(), by)
    return load_tokens(store, ids, by)
