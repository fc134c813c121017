"""Which cells of a picture an edit draws anew: those under a mask, those below a row, a share of them.

A part outside the picture or its range is a `SettingError`.

Shape letters: G pictures, N image tokens, Y X pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from vilg.errors import require
from vilg.images import BLACK, Picture, open_picture, square
from vilg.model.segments import Grid
from vilg.randomness import uniforms
from vilg.sampling.images import Kept
from vilg.sampling.pixels import encode
from vilg.sampling.settings import number, whole_number
from vilg.tokenizer.image_tokenizer import ImageTokenizer


@dataclass(frozen=True)
class Edit:
    """What an edit keeps of a picture.

    Attributes:
        original: the picture at the model's size.
        masks: on which pixels what is drawn is shown: one mask_YX a seed.
    """

    original: Image.Image
    kept: Kept
    masks: Sequence[NDArray[np.bool_]]

    def pasted(self, pictures: Iterable[Image.Image]) -> Iterator[Image.Image]:
        """Yield what was drawn under the masks and the original around it."""
        for drawn, mask_YX in zip(pictures, self.masks, strict=True):
            yield Image.composite(drawn, self.original, Image.fromarray(mask_YX))


@dataclass(frozen=True)
class Redrawn:
    """Which part of a picture an edit draws anew, said in one of three ways."""

    mask: Picture | None
    first_row: int | None
    share: float | None

    def __post_init__(self) -> None:
        given = [part is not None for part in vars(self).values()]
        require(sum(given) == 1, "say what to draw anew by one of a mask, a first row and a share")

    def edit(self, tokenizer: ImageTokenizer, image: Picture, seeds: Sequence[int]) -> Edit:
        """Prepare an edit, drawn once a seed."""
        size, picture = tokenizer.config.image_size, open_picture(image)
        original, num = square(picture, size), len(seeds)
        grid = Grid(tokenizer.config.grid_size, tokenizer.config.grid_size)
        if self.mask is not None:
            mask_YX = read_mask(open_picture(self.mask, ground=BLACK), picture, size)
            redraw_GN, masks = masked_cells(mask_YX, grid).expand(num, -1), [mask_YX] * num
        else:
            if self.first_row is not None:
                redraw_GN = cells_below(self.first_row, grid).expand(num, -1)
            else:
                assert self.share is not None
                redraw_GN = share_of_cells(self.share, seeds, grid)
            masks = [pixels_of_cells(row_N, grid, size) for row_N in redraw_GN]
        kept = Kept(encode(tokenizer, [original]).expand(num, -1), ~redraw_GN)
        return Edit(original, kept, masks)


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
    """Return redraw_N: the cells of token row `first_row` and below, counted from 0."""
    first_row = whole_number(first_row, "the first row to draw")
    require(
        0 <= first_row < grid.height,
        f"the first row to draw must be 0 to {grid.height - 1}, not {first_row}",
    )
    return torch.arange(grid.num_cells) >= first_row * grid.width


def share_of_cells(share: float, seeds: Sequence[int], grid: Grid) -> Tensor:
    """Return redraw_GN: of each picture this share of the cells, at least one; its seed decides which."""
    share = number(share, "the share of cells to draw anew")
    require(
        0 < share <= 1, f"the share of cells to draw anew must be above 0, at most 1, not {share}"
    )
    cells = np.arange(grid.num_cells)
    rank_GN = [uniforms(seed, "vary", cells).argsort(kind="stable").argsort() for seed in seeds]
    return torch.from_numpy(np.stack(rank_GN) < max(1, round(share * grid.num_cells)))


def read_mask(mask: Image.Image, picture: Image.Image, size: int) -> NDArray[np.bool_]:
    """Return mask_YX over the picture as the model sees it, True where any white is."""
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
