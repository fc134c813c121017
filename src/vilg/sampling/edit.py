"""Which cells of a picture an edit draws anew: those under a mask, those below a row, a share of them.

Shape letters: G pictures, N image tokens, Y X pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vilg.errors import require
from vilg.images import BLACK, Picture, open_picture
from vilg.model.segments import Grid
from vilg.randomness import uniforms
from vilg.sampling.settings import number, whole_number


def check_one_part(mask: object | None, first_row: int | None, share: float | None) -> None:
    """Refuse an edit that does not say in one way what to draw anew.

    Raises:
        SettingError: none or several of them.
    """
    given = [part is not None for part in (mask, first_row, share)]
    require(sum(given) == 1, "say what to draw anew by one of a mask, a first row and a share")


def redrawn(
    picture: Image.Image,
    mask: Picture | None,
    first_row: int | None,
    share: float | None,
    seeds: Sequence[int],
    grid: Grid,
    size: int,
) -> tuple[Tensor, list[NDArray[np.bool_]]]:
    """Return redraw_GN, and on which pixels what is drawn is shown: one mask_YX a seed.

    Raises:
        ImageError: a mask that is no picture.
        SettingError: not one part, or one outside its range.
    """
    check_one_part(mask, first_row, share)
    if mask is not None:
        mask_YX = read_mask(open_picture(mask, ground=BLACK), picture, size)
        return masked_cells(mask_YX, grid).expand(len(seeds), -1), [mask_YX] * len(seeds)
    if first_row is not None:
        redraw_GN = cells_below(first_row, grid).expand(len(seeds), -1)
    else:
        assert share is not None
        redraw_GN = share_of_cells(share, seeds, grid)
    return redraw_GN, [pixels_of_cells(row_N, grid, size) for row_N in redraw_GN]


def masked_cells(mask_YX: NDArray[np.bool_], grid: Grid) -> Tensor:
    """Return redraw_N: the cells with a masked pixel in them."""
    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip(mask_YX.shape, (grid.height, grid.width), strict=True)
    )
    redraw_HW = np.zeros((grid.height, grid.width), dtype=bool)
    y, x = mask_YX.nonzero()
    redraw_HW[rows[y], columns[x]] = True
    return torch.from_numpy(redraw_HW.ravel())


def cells_below(first_row: int, grid: Grid) -> Tensor:
    """Return redraw_N: the cells of token row `first_row` and below, counted from 0.

    Raises:
        SettingError: no such row.
    """
    first_row = whole_number(first_row, "the first row to draw")
    require(
        0 <= first_row < grid.height,
        f"the first row to draw must be 0 to {grid.height - 1}, not {first_row}",
    )
    return torch.arange(grid.num_cells) >= first_row * grid.width


def share_of_cells(share: float, seeds: Sequence[int], grid: Grid) -> Tensor:
    """Return redraw_GN: of each picture this share of the cells, at least one; its seed decides which.

    Raises:
        SettingError: a share outside its range.
    """
    share = number(share, "the share of cells to draw anew")
    require(
        0 < share <= 1, f"the share of cells to draw anew must be above 0, at most 1, not {share}"
    )
    cells = np.arange(grid.num_cells)
    rank_GN = [uniforms(seed, "vary", cells).argsort(kind="stable").argsort() for seed in seeds]
    return torch.from_numpy(np.stack(rank_GN) < max(1, round(share * grid.num_cells)))


def read_mask(mask: Image.Image, picture: Image.Image, size: int) -> NDArray[np.bool_]:
    """Return mask_YX over the picture as the model sees it, True where any white is.

    Raises:
        SettingError: a mask of another size than the picture, all black, or all of whose white lies
            outside the square that the model sees.
    """
    require(
        mask.size == picture.size,
        f"the mask has {mask.width} x {mask.height} pixels and the picture {picture.width} x "
        f"{picture.height}: paint the mask over the picture itself",
    )
    white = mask.convert("L").point(lambda level: 255 if level >= 128 else 0)
    require(
        white.getbbox() is not None,
        "nothing in the mask is lighter than mid-grey (its lightest pixel is "
        f"{mask.convert('L').getextrema()[1]} of 255): paint white what is to be drawn anew",
    )
    # The same crop as the picture's own. By averages, in floats: a thin stroke leaves a little.
    fitted = ImageOps.fit(white.convert("F"), (size, size), method=Image.Resampling.BOX)
    mask_YX = np.array(fitted) > 0
    require(
        bool(mask_YX.any()),
        "all that is white in the mask lies outside the square in the middle that the model sees",
    )
    return mask_YX


def pixels_of_cells(redraw_N: Tensor, grid: Grid, size: int) -> NDArray[np.bool_]:
    """Return mask_YX, True on the pixels of the cells that are drawn anew."""
    cells_HW = redraw_N.view(grid.height, grid.width).numpy()
    return cells_HW.repeat(size // grid.height, axis=0).repeat(size // grid.width, axis=1)


def paste(drawn: Image.Image, original: Image.Image, mask_YX: NDArray[np.bool_]) -> Image.Image:
    """Return what was drawn under the mask and the original around it."""
    return Image.composite(drawn, original, Image.fromarray(mask_YX))
