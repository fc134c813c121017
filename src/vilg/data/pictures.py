"""Pictures in any folder, and as arrays: all that an image tokenizer needs to be trained on.

Shape letters: N pictures, Y X pixels.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilg.data.shards import DataError, Sample
from vilg.images import open_picture, square, to_array
from vilg.progress import in_batches

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def is_data_set(folder: Path) -> bool:
    """Say whether a folder is a data set of shards (`shards.py`)."""
    return (folder / "manifest.json").is_file()


def list_pictures(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Find the pictures in a folder and below it.

    Hidden files are none of the user's pictures: a Mac puts a `._NAME.jpg` beside each in its archives.

    Returns:
        the pictures, sorted by path, and how many other files there are, by suffix.

    Raises:
        DataError: no folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give a data set or a folder of pictures")
    shown = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    files = sorted(path for path in shown if path.suffix.lower() in SUFFIXES)
    others = Counter(
        path.suffix.lower() or path.name for path in shown if path.suffix.lower() not in SUFFIXES
    )
    if not files:
        found = f", but {tell(others)}" if others else ""
        raise DataError(f"{folder} holds no picture ({', '.join(SUFFIXES)}){found}")
    return files, others


def tell(others: Counter[str]) -> str:
    """Say how many files of which kinds are left out."""
    return ", ".join(f"{number} {kind}" for kind, number in others.most_common())


def load_pictures(samples: Sequence[Sample], size: int) -> NDArray[np.uint8]:
    """Decode, crop and resize; return bytes_NYX3."""
    return decode_pictures([sample.picture for sample in samples], size)


def decode_pictures(pictures: Sequence[bytes | Path], size: int) -> NDArray[np.uint8]:
    """Decode encoded pictures or files, crop and resize; return bytes_NYX3."""
    arrays = np.empty((len(pictures), size, size, 3), dtype=np.uint8)
    for part in in_batches(len(pictures), 256, "pictures"):
        for i, picture in enumerate(pictures[part], part.start):
            arrays[i] = to_array(square(open_picture(picture), size))
    return arrays
