"""Reading any picture safely, and pixels to arrays and back."""

import ctypes
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features

from vilg.images import (
    MOST_BYTES,
    ImageError,
    contact_sheet,
    open_picture,
    square,
    to_array,
    to_arrays,
    to_pictures,
    to_pixels,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    shape = (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def stored_as(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """What a camera stores: EXIF 2.3 says where row 0 and column 0 of the file belong."""
    turned = upright.swapaxes(0, 1)  # rows of the file run along columns of the picture
    return {
        1: upright,  # row 0 at the top, column 0 at the left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_their_exif_says(orientation: int) -> None:
    upright = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
    assert np.array_equal(to_array(open_picture(encoded(stored, exif=exif))), upright)


def test_a_given_picture_is_turned_like_its_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.png"
    path.write_bytes(encoded(Image.fromarray(noise(2, 3)), exif=exif))
    assert open_picture(Image.open(path)).tobytes() == open_picture(path).tobytes()


# To be turned, and a text where the resolution should be: as bytes, because Pillow won't write it.
ODD_EXIF = b"Exif\0\0II*\0" + struct.pack(
    "<IHHHIIHHI4sHHIII", 8, 3, 0x0112, 3, 1, 6, 0x011A, 2, 4, b"big\0", 0x0128, 3, 1, 2, 0
)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it skips
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_of_the_exif_only_the_orientation_counts(kind: str) -> None:
    stored = Image.fromarray(noise(16, 24) // 64 * 64)
    plain = to_array(open_picture(encoded(stored, kind)))
    odd = to_array(open_picture(encoded(stored, kind, exif=ODD_EXIF)))
    assert np.array_equal(stored_as(odd, 6), plain)
    broken = encoded(stored, kind, exif=ODD_EXIF[:10] + b"\xff\xff\xff\x7f")
    assert np.array_equal(to_array(open_picture(broken)), plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_any_bytes_are_a_picture_or_an_error_that_names_the_file(kind: str, tmp_path: Path) -> None:
    if not features.check("avif") and kind == "AVIF":
        pytest.skip("this Pillow reads no AVIF")
    random = np.random.default_rng(0)
    path, num_errors = tmp_path / f"damaged.{kind}", 0
    coloured = Image.fromarray(noise(16, 24, 4))
    for mode in ("RGB", "RGBA", "P", "LA", "CMYK", "1"):
        odd = {} if kind in ("TIFF", "AVIF") else {"exif": ODD_EXIF}
        try:
            whole = encoded(coloured.convert("RGB").convert(mode), kind, **odd)
        except (OSError, ValueError):  # a mode that the format lacks
            continue
        for _ in range(30):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), 3):
                damaged[place] = random.integers(0, 256)
            path.write_bytes(damaged[: random.integers(len(whole) // 2, 2 * len(whole))])
            try:
                assert open_picture(path).mode == "RGB"
            except ImageError as error:
                num_errors += 1
                assert str(path) in str(error) and "\n" not in str(error)
    assert num_errors


def test_given_pictures_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(noise(40, 40)))
    closed = Image.open(io.BytesIO(whole))
    closed.close()
    floats = Image.fromarray(np.zeros((2, 2), dtype=np.float32))
    for picture, said in (
        (Image.open(io.BytesIO(whole[: len(whole) // 2])), "not a readable picture"),
        (closed, "not a readable picture"),
        (Image.new("RGB", (0, 3)), "no pixels: 0 x 3"),
        (floats, "no agreed range"),
        (np.zeros((2, 2, 3)), "a ndarray is no picture.*fromarray"),
    ):
        with pytest.raises(ImageError, match=said):
            open_picture(picture)


def test_wide_integers_of_eight_bits_keep_their_brightness() -> None:
    levels = np.arange(0, 256, 16, dtype=np.int32)[None]
    found = to_array(open_picture(Image.fromarray(levels)))
    assert found[0, :, 0].tolist() == levels[0].tolist()


def test_transparency_is_laid_on_white() -> None:
    picture = Image.new("RGBA", (3, 1))
    picture.putpixel((0, 0), (255, 0, 0, 255))
    picture.putpixel((1, 0), (255, 0, 0, 51))  # a fifth of red over white
    picture.putpixel((2, 0), (0, 0, 0, 0))
    seen = open_picture(encoded(picture))
    assert seen.mode == "RGB"
    assert [seen.getpixel((x, 0)) for x in range(3)] == [RED, (255, 204, 204), WHITE]
    grey = Image.new("LA", (1, 1), (0, 51))
    assert open_picture(grey).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_white(kind: str) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*BLUE, *GREEN])
    picture.putpixel((1, 0), 1)
    seen = open_picture(encoded(picture, kind, transparency=0))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [WHITE, GREEN]
    opaque = open_picture(encoded(picture, kind))
    assert [opaque.getpixel((x, 0)) for x in range(2)] == [BLUE, GREEN]


def test_a_colour_named_transparent_is_white() -> None:
    picture = Image.new("RGB", (2, 1), BLUE)
    picture.putpixel((1, 0), GREEN)
    seen = open_picture(encoded(picture, transparency=BLUE))
    assert [seen.getpixel((x, 0)) for x in range(2)] == [WHITE, GREEN]


@pytest.mark.parametrize("ground", [WHITE, (0, 0, 0)])
def test_every_mode_is_laid_on_the_ground(ground: tuple[int, int, int]) -> None:
    half_red = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    half_red.putpixel((1, 0), (255, 0, 0, 255))
    grey = Image.new("LA", (2, 1), (9, 0))
    grey.putpixel((1, 0), (9, 255))
    for picture in (half_red, half_red.quantize(), half_red.convert("RGBa"), grey.convert("La")):
        seen = open_picture(picture, ground)
        shown = (9, 9, 9) if picture.mode == "La" else RED
        assert [seen.getpixel((x, 0)) for x in range(2)] == [ground, shown], picture.mode
    palette = encoded(half_red.quantize(), "PNG")
    assert open_picture(palette, ground).getpixel((0, 0)) == ground


@pytest.mark.parametrize(
    ("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)]
)
def test_a_transparent_level_of_any_depth_is_the_ground(depth: int, channels: int) -> None:
    levels = [1] * channels + [0] * channels
    row = sum(level << depth * i for i, level in enumerate(reversed(levels)))
    row <<= -len(levels) * depth % 8
    stored = png(
        size=(2, 1),
        depth=depth,
        colour=0 if channels == 1 else 2,
        key=struct.pack(f">{channels}H", *levels[:channels]),
        rows=zlib.compress(b"\0" + row.to_bytes(-(-len(levels) * depth // 8), "big")),
    )
    seen = open_picture(stored, ground=GREEN)
    # Colours of 16 bits are cut to 8 by Pillow: both are 0 there.
    is_cut = depth == 16 and channels == 3
    assert [seen.getpixel((x, 0)) for x in range(2)] == [GREEN, GREEN if is_cut else (0, 0, 0)]


def test_cmyk_is_ink_not_light() -> None:
    inks = {(0, 0, 0, 0): WHITE, (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, light in inks.items():
        picture = Image.new("CMYK", (8, 8), ink)
        assert open_picture(encoded(picture, "TIFF")).getpixel((0, 0)) == light
        jpeg = open_picture(encoded(picture, "JPEG", quality=95))
        assert np.abs(to_array(jpeg).astype(int) - light).max() <= 3


def test_grey_pictures_keep_their_brightness() -> None:
    levels = np.array([[0, 100, 255]], dtype=np.uint8)
    expected = np.repeat(levels[..., None], 3, axis=-1)
    assert np.array_equal(to_array(open_picture(encoded(Image.fromarray(levels)))), expected)
    one_bit = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert to_array(open_picture(encoded(one_bit))).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_pictures_keep_their_brightness(kind: str) -> None:
    levels = np.array([[0, 100 * 257, 65535]], dtype=np.uint16)
    seen = to_array(open_picture(encoded(Image.fromarray(levels), kind)))
    assert np.abs(seen[0].astype(int) - [[0], [100], [255]]).max() <= 1


def test_files_bytes_and_pictures_are_read_alike(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(5, 4))
    path = tmp_path / "a.png"
    picture.save(path)
    for source in (path, str(path), path.read_bytes(), picture):
        assert np.array_equal(to_array(open_picture(source)), np.asarray(picture))


def png(size: tuple[int, int], depth: int, colour: int, rows: bytes, key: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    transparent = chunk(b"tRNS", key) if key else b""
    return b"\x89PNG\r\n\x1a\n" + header + transparent + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def huge_png() -> bytes:
    """A file of 69 bytes that claims 2.5 thousand million pixels."""
    return png((50_000, 50_000), depth=8, colour=2, rows=b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("depth", "colour"), [(16, 0), (8, 4), (8, 6), (8, 2), (8, 3), (1, 0)])
def test_what_would_fill_the_memory_is_refused_before_it_is_decoded(
    depth: int, colour: int
) -> None:
    side = int((MOST_BYTES / 8) ** 0.5) + 1
    with pytest.raises(ImageError, match=f"has {side} x {side} pixels.* 1024 MiB to read"):
        open_picture(png((side, side), depth, colour, rows=b""))


def peak_of(job: Callable[[], object]) -> int:
    """Return how many bytes of memory a job takes more than there were in use."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    ctypes.CDLL(None).malloc_trim(0)  # what was freed would be taken again, and not counted
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    before = status("VmRSS")
    job()
    return status("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("size", [(3000, 3000), (2, 4_500_000)], ids=str)
@pytest.mark.parametrize(
    ("mode", "kind"),
    [("I;16", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "TIFF")],
)
def test_reading_takes_eight_bytes_a_pixel(mode: str, kind: str, size: tuple[int, int]) -> None:
    exif, (width, height) = Image.Exif(), size
    exif[0x0112] = 6
    stored = encoded(Image.new(mode, size), kind, exif=exif)
    # What the first one loads stays, and is no part of what a picture takes.
    peak = min(peak_of(lambda: open_picture(stored)) for _ in range(2))
    # 16 MiB for the bands and the allocator, and what Pillow holds of where rows begin. A third copy
    # would be 4 bytes a pixel, 34 MiB.
    assert peak < 8 * width * height + 16 * (width + height) + 2**24


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("mode", ["I;16", "LA"])
def test_a_long_row_is_converted_in_bands_too(mode: str) -> None:
    num = 4_000_000
    stored = encoded(Image.new(mode, (num, 1)))
    assert min(peak_of(lambda: open_picture(stored)) for _ in range(2)) < 12 * num + 2**23


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(130_000_000, 1), (1, 130_000_000)], ids=str)
def test_one_row_or_column_that_would_fill_the_memory_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"has {size[0]} x {size[1]} pixels, .* 1024 MiB to read"):
        open_picture(png(size, depth=16, colour=6, rows=b""))


def test_a_picture_of_several_bands_in_both_directions_is_whole() -> None:
    for shape in ((3, 2**18 + 5), (2**18 + 5, 3), (600, 601)):
        levels = noise(*shape, channels=1)[..., 0]
        seen = to_array(open_picture(Image.fromarray(levels.astype(np.uint16) * 257)))
        assert np.array_equal(seen, np.repeat(levels[..., None], 3, axis=-1))


def test_broken_files_are_one_line_that_names_them(tmp_path: Path) -> None:
    jpeg = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    broken = {
        "half.jpg": jpeg[: len(jpeg) // 2],
        "almost.jpg": jpeg[:-20],
        "header.jpg": jpeg[:30],
        "empty.png": b"",
        "words.png": b"this is no picture",
        "bomb.png": huge_png(),
    }
    for name, content in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            open_picture(path)
        assert str(caught.value).startswith(f"{path} is not a readable picture")
        assert "\n" not in str(caught.value)
        with pytest.raises(ImageError, match="the given bytes"):
            open_picture(content)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.png", "No such file"),
        (".", "is a folder: name a picture file"),
        # A prompt given where a picture is wanted: longer than any file name, or no path at all.
        ("苹果" * 60, "cannot read"),
        ("nul\0.png", "cannot read"),
    ],
    ids=["missing", "folder", "too long", "nul"],
)
def test_names_that_are_no_file_are_one_line(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(ImageError, match=reason) as caught:
        open_picture(path)
    assert str(path) in str(caught.value)


def test_the_square_is_cut_from_the_middle() -> None:
    thirds = Image.new("RGB", (60, 20), RED)
    thirds.paste(GREEN, (20, 0, 40, 20))
    thirds.paste(BLUE, (40, 0, 60, 20))
    assert (to_array(square(thirds, 20)) == GREEN).all()
    assert (to_array(square(thirds.rotate(90, expand=True), 20)) == GREEN).all()
    # Resized too, and then only the seam is blurred: Lanczos reaches three pixels each way.
    halves = Image.new("RGB", (40, 100), RED)
    halves.paste(BLUE, (20, 0, 40, 100))
    small = to_array(square(halves, 10))
    assert small.shape == (10, 10, 3)
    assert (small[:, :2] == RED).all() and (small[:, 8:] == BLUE).all()


def test_a_square_of_the_right_size_is_left_alone() -> None:
    array = noise(8, 8)
    assert np.array_equal(to_array(square(Image.fromarray(array), 8)), array)


def test_bytes_become_pixels_and_come_back_exactly() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    arrays_BYX3 = np.stack([values, values.T, values[::-1]], axis=-1)[None].repeat(2, axis=0)
    pixels_B3YX = to_pixels(arrays_BYX3)
    assert pixels_B3YX.shape == (2, 3, 16, 16) and pixels_B3YX.dtype == torch.float32
    assert pixels_B3YX.is_contiguous(memory_format=torch.channels_last)
    assert pixels_B3YX.min() == -1 and pixels_B3YX.max() == 1
    assert torch.equal(pixels_B3YX[0, 0].flatten(), torch.arange(256) / 127.5 - 1)
    assert np.array_equal(to_arrays(pixels_B3YX), arrays_BYX3)
    assert np.array_equal(to_array(to_pictures(pixels_B3YX)[1]), arrays_BYX3[1])


def test_pixels_are_rounded_and_clamped() -> None:
    levels = torch.tensor([-40.0, -0.4, 100.4, 100.6, 254.6, 300.0])
    pixels_B3YX = (levels / 127.5 - 1).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_arrays(pixels_B3YX)[0, 0, :, 0].tolist() == [0, 0, 100, 101, 255, 255]


@pytest.fixture
def every_warning() -> Iterator[None]:
    """PyTorch repeats no warning by itself, so that a test sees one only if it comes first."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.usefixtures("every_warning")
def test_an_opened_picture_becomes_pixels_without_a_warning() -> None:
    array = noise(4, 4)
    pixels_B3YX = to_pixels(to_array(open_picture(encoded(Image.fromarray(array))))[None])
    assert np.array_equal(to_arrays(pixels_B3YX)[0], array)


def test_a_contact_sheet_has_its_pictures_where_they_belong() -> None:
    def tile(number: int) -> Image.Image:
        return Image.fromarray(np.full((3, 5, 3), number, dtype=np.uint8))

    sheet = contact_sheet([[tile(1), tile(2)], [tile(3)]], gap=2, scale=3)
    assert sheet.size == (2 * (15 + 2) + 2, 2 * (9 + 2) + 2)
    expected = np.full((24, 36, 3), 255, dtype=np.uint8)
    expected[2:11, 2:17] = 1
    expected[2:11, 19:34] = 2
    expected[13:22, 2:17] = 3
    assert np.array_equal(to_array(sheet), expected)


def test_a_contact_sheet_enlarges_without_blur() -> None:
    array = noise(2, 2)
    sheet = to_array(contact_sheet([[Image.fromarray(array)]], gap=0, scale=2))
    assert np.array_equal(sheet, array.repeat(2, axis=0).repeat(2, axis=1))
