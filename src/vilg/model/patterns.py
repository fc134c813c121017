"""Which image cells an image cell may attend to, layer by layer (paper section 3.1.2, figure 2).

A pattern is a relation between the cells of an H x W grid in raster order. `mask` is its reference
form, a boolean matrix. Layers count from 1, as in DALL-E (arXiv 2102.12092, appendix B.1).

Shape letters: Q query cells, N key cells, both H*W in raster order.
"""

from enum import StrEnum

import torch
from torch import Tensor

KERNEL = 11  # side of the convolutional window (paper section 3.1.2, as DALL-E)


class Pattern(StrEnum):
    """A sparse attention pattern; DENSE lets every (earlier) cell through."""

    ROW = "row"
    COLUMN = "column"
    CONVOLUTION = "convolution"
    DENSE = "dense"


def paper_patterns(num_layers: int) -> tuple[Pattern, ...]:
    """Return the paper's rule: column where i mod 4 = 2, row elsewhere, the last convolutional."""
    rule = [Pattern.COLUMN if i % 4 == 2 else Pattern.ROW for i in range(1, num_layers + 1)]
    return (*rule[:-1], Pattern.CONVOLUTION)


def mask(pattern: Pattern, height: int, width: int, *, causal: bool) -> Tensor:
    """Return see_QN, True where the query cell may read the key cell.

    The causal form (image as target) is DALL-E's: rows and the window are bands of raster offsets
    that wrap round the edges. The two-way form (image as source) is geometric: same row, same column,
    or a window cut at the edges; the caption of figure 2 says no more than that.

    Args:
        causal: True for an image that is being generated, False for one that is read.
    """
    cell = torch.arange(height * width)
    row, column = cell // width, cell % width
    row_back_QN = row[:, None] - row[None, :]
    column_back_QN = column[:, None] - column[None, :]
    back_QN = cell[:, None] - cell[None, :]  # how far the key lies behind the query
    if not causal:
        reach = KERNEL // 2
        return {
            Pattern.ROW: row_back_QN == 0,
            Pattern.COLUMN: column_back_QN == 0,
            Pattern.CONVOLUTION: (row_back_QN.abs() <= reach) & (column_back_QN.abs() <= reach),
            Pattern.DENSE: torch.ones_like(back_QN, dtype=torch.bool),
        }[pattern]
    return (back_QN >= 0) & {
        # Back to the same column of the previous row: W + 1 keys with the query's own.
        Pattern.ROW: back_QN <= width,
        Pattern.COLUMN: column_back_QN == 0,
        Pattern.CONVOLUTION: torch.isin(back_QN, window_offsets(width)),
        Pattern.DENSE: torch.ones_like(back_QN, dtype=torch.bool),
    }[pattern]


def window_offsets(width: int) -> Tensor:
    """Return how far back the causal window reaches: 61 raster offsets on a grid 11 or wider.

    A set: on a narrower grid several (row, column) steps share an offset, and a key counted twice
    would get twice its weight.
    """
    reach = KERNEL // 2
    up = torch.arange(0, reach + 1)[:, None]
    left = torch.arange(-reach, reach + 1)[None, :]
    offsets = (up * width + left).flatten().unique()
    return offsets[offsets >= 0]
