"""Files that the verbs write: their names, what is written in them, and how.

What cannot be written is an `OutputError`, found before any work where it can be.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vilg.errors import VilgError
from vilg.files import write_whole
from vilg.text import normalise

# Chinese takes three bytes a character in a file name, and a name may have 255.
_LONGEST_SLUG = 60


class OutputError(VilgError):
    """A file or folder that cannot be written."""


def slug(text: str) -> str:
    """Return the letters and digits of a text, of any script, with "-" for all between them."""
    kept = "".join(character if character.isalnum() else " " for character in normalise(text))
    return "-".join(kept.split())[:_LONGEST_SLUG].strip("-")


def picture_name(index: int, prompt: str, seed: int) -> str:
    """Return the name of a picture among others: "000-red-apple-seed7.png"."""
    return "-".join(part for part in (f"{index:03d}", slug(prompt), f"seed{seed}.png") if part)


def check_folder(folder: Path) -> None:
    """Find out before any work whether a folder can be written, without making it."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"cannot write to {folder}: {place} is not a folder; name another one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {folder}: {place} is not writable; name another folder")


def check_file(path: Path) -> None:
    """Find out before any work whether a file can be written."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file")
    check_folder(path.parent)


def check_apart(path: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse to write a result over what it is made from."""
    for source in inputs:
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"{path} is what is read: name another file for the result")


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none, and the folder it lies in; on an error the old file stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def png(picture: Image.Image, notes: Mapping[str, str]) -> bytes:
    """Return a PNG file with text chunks; equal pictures and notes give equal bytes."""
    chunks = PngInfo()
    for key, text in notes.items():
        chunks.add_itxt(key, text)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", pnginfo=chunks)
    return stream.getvalue()


def read_notes(path: Path) -> dict[str, str]:
    """Return the text chunks of a PNG file; none if it is broken or something else."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return {key: str(text) for key, text in getattr(picture, "text", {}).items()}
    except Exception:  # every decoder has its own kinds for damaged files
        return {}
