"""Pixels: reading pictures safely, and putting them together on sheets.

Shape letters: B batch, Y X pixels.
"""

from collections.abc import Sequence
from io import BytesIO
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from vilg.device import HOST, moved
from vilg.errors import VilgError

Picture = Path | str | bytes | Image.Image

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)

# The largest picture that is read, by the memory it takes: 134 million pixels, 53 million of a WebP.
MOST_BYTES = 2**30
# As decoded (4 in the largest mode) and as RGB (4 in Pillow), and what these libraries hold besides.
_PIXEL_BYTES, _BUFFER_BYTES = 8, 12
# A PNG's decoder holds two rows of up to 8 bytes a pixel, and both copies a pointer to every row.
_EDGE_BYTES = 16
_BUFFERED = ("WEBP", "AVIF", "JPEG2000")
_BAND = 2**18  # pixels converted at once, whatever the shape
# EXIF 2.3: where row 0 and column 0 of the file belong.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(VilgError):
    """A picture that cannot be read."""


def open_picture(
    source: Picture,
    ground: tuple[int, int, int] = WHITE,
    name: str = "the given bytes",
) -> Image.Image:
    """Return an upright RGB picture; transparency is laid on the ground.

    Args:
        name: what bytes are called in an error.

    Raises:
        ImageError: missing file, folder, or not a readable picture.
    """
    if isinstance(source, Image.Image):
        picture, name = source, "the given picture"
    elif isinstance(source, bytes):
        picture, stream = None, BytesIO(source)
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
        _check(picture, name)
        if isinstance(picture, ImageFile.ImageFile) and "transparency" in picture.info:
            _scale_key(picture)
        picture.load()
        _check(picture, name)  # an ICO may hold a larger picture than it says
        flat, turn = _lay_on(picture, ground), _turn(picture)
        del picture  # or a turn would be the third copy
        return flat if turn is None else flat.transpose(turn)
    except ImageError:
        raise
    except UnidentifiedImageError as error:  # its own words name the stream, not the file
        raise ImageError(f"{name} is not a readable picture (of no known format)") from error
    except Exception as error:  # every decoder has its own kinds for damaged files
        reason = shorten(str(error), 200) or type(error).__name__
        raise ImageError(f"{name} is not a readable picture ({reason})") from error


def _check(picture: Image.Image, name: str) -> None:
    """Refuse what has no RGB, or would fill the memory; a small file may hold a huge picture."""
    if 0 in picture.size:
        raise ImageError(f"{name} has no pixels: {picture.width} x {picture.height}")
    if picture.mode == "F":
        raise ImageError(f"{name} holds floats, of no agreed range: convert it to mode RGB or L")
    pixel = _PIXEL_BYTES + (_BUFFER_BYTES if picture.format in _BUFFERED else 0)
    width, height = picture.size
    if width * height * pixel + (width + height) * _EDGE_BYTES > MOST_BYTES:
        raise ImageError(
            f"{name} has {width} x {height} pixels, which take over "
            f"{MOST_BYTES >> 20} MiB to read: make it smaller first"
        )


def _scale_key(picture: ImageFile.ImageFile) -> None:
    """Bring the transparent colour of a PNG to the 8 bits that Pillow brings its pixels to."""
    depth, key = picture.tile[0].args if picture.tile else None, picture.info["transparency"]
    if depth in ("L;2", "L;4"):
        picture.info["transparency"] = key * (85 if depth == "L;2" else 17)
    elif depth == "RGB;16B":
        picture.info["transparency"] = tuple(level >> 8 for level in key)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Read this one tag; whatever else the EXIF says, or that it is broken, changes no pixel."""
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return None


def _lay_on(picture: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """Return RGB, made in bands: a second copy of all pixels is the only one."""
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    flat = Image.new("RGB", picture.size)
    # Pillow's own conversion cuts off at 255. Plain "I" may also hold 8 bits' levels.
    is_deep = picture.mode.startswith("I;") or (
        picture.mode == "I" and cast(tuple[int, int], picture.getextrema())[1] > 255
    )
    width = min(picture.width, _BAND)
    height = _BAND // width
    corners = product(range(0, picture.width, width), range(0, picture.height, height))
    for left, top in corners:
        right, bottom = min(left + width, picture.width), min(top + height, picture.height)
        band = picture.crop((left, top, right, bottom))
        if is_deep:
            levels = np.asarray(band)
            eight_bits = (levels / 257).round().clip(0, 255).astype(np.uint8)
            is_seen = levels != picture.info.get("transparency", -1)
            band = Image.fromarray(eight_bits)
            band.putalpha(Image.fromarray(is_seen.astype(np.uint8) * 255))
        if band.has_transparency_data:
            layer = (band.convert("LA") if band.mode == "La" else band).convert("RGBA")
            band = Image.new("RGBA", layer.size, (*ground, 255))
            band.alpha_composite(layer)
        flat.paste(band.convert("RGB"), (left, top))
    return flat


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


def to_pixels(arrays_BYX3: NDArray[np.uint8], device: torch.device = HOST) -> Tensor:
    """Bytes to pixels_B3YX in [-1, 1] on a device, in the channels-last layout that convolutions want."""
    bytes_B3YX = moved(torch.from_numpy(arrays_BYX3), device).permute(0, 3, 1, 2)
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
