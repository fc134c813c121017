"""Which cells an edit draws anew."""

import numpy as np
import pytest
import torch
from PIL import Image

from vilg.errors import SettingError
from vilg.model.segments import Grid
from vilg.sampling.edit import (
    Edit,
    cells_below,
    masked_cells,
    pixels_of_cells,
    read_mask,
    share_of_cells,
)
from vilg.sampling.images import Kept

GRID = Grid(4, 4)


def mask_of(*pixels: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((16, 16), dtype=bool)
    for y, x in pixels:
        mask[y, x] = True
    return mask


def test_a_cell_with_one_masked_pixel_is_drawn_anew() -> None:
    assert masked_cells(mask_of((0, 0)), GRID).nonzero().flatten().tolist() == [0]
    assert masked_cells(mask_of((3, 4), (4, 3)), GRID).nonzero().flatten().tolist() == [1, 4]
    assert masked_cells(mask_of((15, 15)), GRID).nonzero().flatten().tolist() == [15]
    assert bool(masked_cells(np.ones((16, 16), dtype=bool), GRID).all())


def test_a_mask_that_masks_nothing_is_said() -> None:
    black, side = Image.new("L", (48, 16)), Image.new("L", (48, 16))
    side.paste(255, (0, 0, 9, 16))
    for mask, said in ((black, "lightest pixel is 0 of 255"), (side, "outside the square")):
        with pytest.raises(SettingError, match=said):
            read_mask(mask, Image.new("RGB", (48, 16)), 16)


def test_a_thin_stroke_on_a_large_picture_counts() -> None:
    mask = Image.new("L", (1024, 1024))
    mask.paste(255, (100, 0, 102, 1024))
    found = read_mask(mask, Image.new("RGB", (1024, 1024)), 64)
    assert found[:, 6].all() and found.sum() == 64


def test_white_begins_at_mid_grey() -> None:
    mask = Image.new("L", (16, 16))
    mask.paste(127, (0, 0, 4, 16))
    mask.paste(128, (8, 0, 12, 16))
    found = read_mask(mask, Image.new("RGB", (16, 16)), 16)
    assert found.any(axis=0).nonzero()[0].tolist() == [8, 9, 10, 11]


def test_rows_below() -> None:
    assert cells_below(0, GRID).tolist() == [True] * 16
    assert cells_below(3, GRID).tolist() == [False] * 12 + [True] * 4
    for row in (-1, 4):
        with pytest.raises(SettingError, match=f"0 to 3, not {row}"):
            cells_below(row, GRID)


def test_a_share_is_a_share_and_its_cells_are_the_seed_s() -> None:
    grid = Grid(32, 32)
    drawn = share_of_cells(0.3, [1, 2, 1], grid)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert drawn.sum(dim=1).tolist() == [307] * 3  # of 1,024
    assert share_of_cells(0.001, [3, 4], GRID).sum(dim=1).tolist() == [1, 1]
    assert bool(share_of_cells(1, [5], grid).all())
    for share in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(SettingError, match="above 0, at most 1"):
            share_of_cells(share, [1], grid)


def test_a_mask_is_cropped_as_its_picture_is() -> None:
    """A wide picture loses its sides; what is white in the middle third stays where it is."""
    white = Image.new("L", (48, 16))
    white.paste(255, (16, 0, 24, 16))
    found = read_mask(white, Image.new("RGB", (48, 16)), 16)
    assert found[:, :8].all() and not found[:, 8:].any()
    with pytest.raises(SettingError, match="48 x 16 pixels and the picture 16 x 48"):
        read_mask(white, Image.new("RGB", (16, 48)), 16)


def test_pixels_of_cells_and_what_is_pasted_there() -> None:
    redraw = torch.zeros(16, dtype=torch.bool)
    redraw[5] = True
    mask = pixels_of_cells(redraw, GRID, 16)
    assert mask.sum() == 16 and mask[4:8, 4:8].all()
    edit = Edit(Image.new("RGB", (16, 16)), Kept.nothing(1, GRID), [mask])
    (picture,) = edit.pasted([Image.new("RGB", (16, 16), "red")])
    pasted = np.array(picture)
    assert (pasted[mask] == (255, 0, 0)).all() and (pasted[~mask] == 0).all()
