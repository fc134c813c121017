"""Pictures in any folder, and as arrays: all that an image tokenizer needs to be trained on.

Shape letters: N pictures, Y X pixels.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilg.data.pairs import DataError, Pair
from vilg.errors import VilgError
from vilg.images import ImageError, open_picture, square, to_array
from vilg.progress import in_batches

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def is_data_set(folder: Path) -> bool:
    """Say whether a folder is a data set of shards (`shards.py`)."""
    return (folder / "manifest.json").is_file()


def list_pictures(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Find the pictures in a folder and below it.

    Linked folders are read too, each once. Hidden files are none of the user's pictures: a Mac puts a `._NAME.jpg` beside each in its archives.

    Returns:
        the pictures, sorted by path, and how many other files there are, by suffix.

    Raises:
        DataError: no folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give a data set or a folder of pictures")
    files, others, strange = list[Path](), Counter[str](), dict[Path, str]()
    for path in walk(folder, strange):
        if path.suffix.lower() in SUFFIXES:
            files.append(path)
        else:
            others[path.suffix.lower() or path.name] += 1
    others.update(strange.values())
    if not files:
        found = f", but {tell(others)}" if others else ""
        raise DataError(f"{folder} holds no picture ({', '.join(SUFFIXES)}){found}")
    return sorted(files), others


def check_outside(folder: Path, out: Path) -> None:
    """Refuse to write below a folder all of which is read, as what is written would be read the next time.

    Raises:
        DataError: `out` lies in the folder, or is it.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{out} lies in {folder}, all of which is read: write outside of it")


def walk(folder: Path, others: dict[Path, str]) -> Iterator[Path]:
    """Yield the files in a folder and below it, sorted within each folder; hidden ones are left out.

    Linked folders come after the others, each once.

    Args:
        others: gets what is no file, and what it is instead.

    Raises:
        DataError: a folder that cannot be read, or a link to one that it lies in.
    """
    seen, waiting = set[Path](), [folder]
    for top in waiting:  # grows by the links found, so that what is no link is read first
        for place, folders, names in os.walk(top, onerror=_refuse):
            if (real := Path(place).resolve()) in seen:
                others[Path(place)] = "link to a folder that was read"
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [link for name in folders if _is_link(link := Path(place, name))]
            for path in (Path(place, name) for name in sorted(names) if not name.startswith(".")):
                if path.is_file():
                    yield path
                else:
                    others[path] = "link to nothing" if path.is_symlink() else "device"


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _is_link(path: Path) -> bool:
    """Say whether a folder is linked; one that holds itself has no end."""
    is_link = path.is_symlink()
    if is_link and path.resolve() in {parent.resolve() for parent in path.absolute().parents}:
        raise DataError(f"{path} is a link to a folder that it lies in: remove it")
    return is_link


def tell(others: Counter[str]) -> str:
    """Say how many files of which kinds are left out."""
    return ", ".join(f"{number} {kind}" for kind, number in others.most_common())


def load_pictures(sources: Sequence[Pair | Path], size: int) -> NDArray[np.uint8]:
    """Decode pictures of pairs or files, crop and resize; return bytes_NYX3."""
    arrays = np.empty((len(sources), size, size, 3), dtype=np.uint8)
    for part in in_batches(len(sources), 256, "pictures"):
        for i, source in enumerate(sources[part], part.start):
            arrays[i] = to_array(square(_open(source), size))
    return arrays


def _open(source: Pair | Path) -> Image.Image:
    if isinstance(source, Path):
        return open_picture(source)
    assert source.picture is not None
    return open_picture(source.picture(), name=f"the picture of {source.id} ({source.place})")


def open_pair(pair: Pair) -> Image.Image:
    """Open the picture of a pair that has one.

    Raises:
        DataError, ImageError: it cannot be read.
    """
    assert pair.picture is not None
    try:
        return open_picture(pair.picture(), name="the picture")
    except OSError as error:
        raise ImageError(f"the picture cannot be read: {error.strerror or error}") from error


def try_picture(source: Pair | Path, size: int) -> NDArray[np.uint8] | VilgError:
    """Decode one picture, crop and resize it; return bytes_YX3, or why that cannot be."""
    try:
        opened = open_picture(source) if isinstance(source, Path) else open_pair(source)
        return to_array(square(opened, size))
    except VilgError as error:
        return error
