"""Pixels: reading pictures safely, and putting them together on sheets.

Shape letters: B batch, Y X pixels.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vilg.errors import VilgError

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


class ImageError(VilgError):
    """A picture that cannot be read."""


def open_picture(
    source: Path | str | bytes | Image.Image, ground: tuple[int, int, int] = WHITE
) -> Image.Image:
    """Return an upright RGB picture; transparency is laid on the ground.

    Raises:
        ImageError: missing file, folder, or not a readable picture.
    """
    if isinstance(source, Image.Image):
        picture, name = source, "the given picture"
    elif isinstance(source, bytes):
        picture, name = None, "the given bytes"
        stream = BytesIO(source)
    elif isinstance(source, Path | str):
        picture, name = None, str(source)
        stream = _bytes_of(source)
    else:
        raise ImageError(
            f"a {type(source).__name__} is no picture: give a path or a Pillow image "
            "(PIL.Image.fromarray makes one of an array)"
        )
    try:
        picture = picture or Image.open(stream)
        picture.load()
        picture = ImageOps.exif_transpose(picture)
    except UnidentifiedImageError as error:  # its own words name the stream, not the file
        raise ImageError(f"{name} is not a readable picture (of no known format)") from error
    # ValueError: text of over a megabyte in a PNG, which Pillow takes for an attack.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name} is not a readable picture ({error})") from error
    if 0 in picture.size:
        raise ImageError(f"{name} has no pixels: {picture.width} x {picture.height}")
    if picture.mode == "F":
        raise ImageError(f"{name} holds floats, of no agreed range: convert it to mode RGB or L")
    # 16 bits a pixel; Pillow's own conversion cuts off at 255. Plain "I" may also hold 8 bits' levels.
    if picture.mode.startswith("I;") or (picture.mode == "I" and np.asarray(picture).max() > 255):
        levels = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        picture = Image.new("RGBA", layer.size, (*ground, 255))
        picture.alpha_composite(layer)
    return picture.convert("RGB")


def _bytes_of(path: Path | str) -> BytesIO:
    try:
        return BytesIO(Path(path).read_bytes())
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder: name a picture file") from error
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a name with a null character
        raise ImageError(f"cannot read {path}: {error}") from error


def batch_of(size: int) -> int:
    """Return how many pictures of a side go through a network at once: 50 of 64 pixels, 3 of 256."""
    return max(1, 50 * 64**2 // size**2)


def square(picture: Image.Image, size: int) -> Image.Image:
    """Centre-crop to a square (paper section 4.1) and resize to `size` pixels a side."""
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), method=Image.Resampling.LANCZOS)


def to_array(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the picture as bytes, shape (Y, X, 3); a copy, because torch wants to own its memory."""
    return np.array(picture.convert("RGB"))


def to_pixels(arrays_BYX3: NDArray[np.uint8]) -> Tensor:
    """Bytes to pixels_B3YX in [-1, 1], in the channels-last layout that CPU convolutions want."""
    bytes_B3YX = torch.from_numpy(arrays_BYX3).permute(0, 3, 1, 2)
    return bytes_B3YX.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def to_arrays(pixels_B3YX: Tensor) -> NDArray[np.uint8]:
    """Pixels in [-1, 1] to bytes_BYX3, rounded."""
    bytes_B3YX = pixels_B3YX.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return bytes_B3YX.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_pictures(pixels_B3YX: Tensor) -> list[Image.Image]:
    """Pixels in [-1, 1] to pictures."""
    return [Image.fromarray(array) for array in to_arrays(pixels_B3YX)]


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], gap: int = 4, scale: int = 1
) -> Image.Image:
    """Lay rows of equally large pictures on one white sheet."""
    assert rows and rows[0], "a sheet needs a picture"
    width, height = (side * scale for side in rows[0][0].size)
    columns = max(len(row) for row in rows)
    sheet = Image.new(
        "RGB", (columns * (width + gap) + gap, len(rows) * (height + gap) + gap), WHITE
    )
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            tile = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + x * (width + gap), gap + y * (height + gap)))
    return sheet
