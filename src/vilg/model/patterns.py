"""Which image cells an image cell may attend to, layer by layer (paper section 3.1.2, figure 2).

A pattern is a relation between the cells of an H x W grid in raster order, `sees`. `mask` is all of it, a
boolean matrix; `decode_window` is what sampling keeps and reads of it, and `attend` its fast form for whole
sequences. Layers count from 1, as in DALL-E (arXiv 2102.12092, appendix B.1).

Shape letters: Q query cells, N key cells, both H*W in raster order.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from vilg.device import HOST, moved

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


def sees(pattern: Pattern, query: Tensor, key: Tensor, width: int, *, causal: bool) -> Tensor:
    """Return, for query and key cells of any shapes that broadcast, whether the one may read the other.

    The causal form (image as target) is DALL-E's: rows and the window are bands of raster offsets
    that wrap round the edges. The two-way form (image as source) is geometric: same row, same column,
    or a window cut at the edges; the caption of figure 2 says no more than that.

    Args:
        causal: True for an image that is being generated, False for one that is read.
    """
    back = query - key  # how far the key lies behind the query
    past = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
    match pattern:
        case Pattern.DENSE:
            return past
        case Pattern.COLUMN:
            return past & (query % width == key % width)
        case Pattern.ROW if causal:
            # Back to the same column of the previous row: W + 1 keys with the query's own.
            return past & (back <= width)
        case Pattern.ROW:
            return query // width == key // width
        case Pattern.CONVOLUTION if causal:
            # `window_offsets`, said without a table: at most 5 rows up, and 5 columns off on either side.
            reach = KERNEL // 2
            return past & (back <= reach * width + reach) & ((back + reach) % width < KERNEL)
    rows, columns = query // width - key // width, query % width - key % width
    return (rows.abs() <= KERNEL // 2) & (columns.abs() <= KERNEL // 2)


def mask(pattern: Pattern, height: int, width: int, *, causal: bool) -> Tensor:
    """Return see_QN: `sees` of every pair of cells."""
    cell = torch.arange(height * width, device=HOST)
    return sees(pattern, cell[:, None], cell[None, :], width, causal=causal)


def window_offsets(width: int) -> Tensor:
    """Return how far back the causal window reaches: 61 raster offsets on a grid 11 or wider.

    A set: on a narrower grid several (row, column) steps share an offset, and a key counted twice
    would get twice its weight.
    """
    reach = KERNEL // 2
    up = torch.arange(0, reach + 1, device=HOST)[:, None]
    left = torch.arange(-reach, reach + 1, device=HOST)[None, :]
    offsets = (up * width + left).flatten().unique()
    return offsets[offsets >= 0]


@dataclass(frozen=True)
class Reach:
    """Where one cell keeps its key and which slots it reads, its own among them.

    Of a cell that is a number, as Python wants it; of one that is a tensor, as a device wants it: the same
    operations for every cell.

    Attributes:
        seen: a slice where the slots are neighbours, which costs no copy.
        bias_1R: minus infinity on slots that hold nothing yet; None where none is among those seen.
    """

    slot: int | Tensor
    seen: slice | Tensor
    bias_1R: Tensor | None


@dataclass(frozen=True)
class DecodeWindow:
    """What a layer keeps of the cells of a growing image, and which of it the next cell reads.

    Attributes:
        num_slots: places for keys; fewer than cells where the pattern forgets.
        slot_N: of each cell, where its key is kept.
        back_R: how far behind a cell those lie that it reads, its own first.
    """

    num_slots: int
    slot_N: Tensor
    back_R: Tensor

    @cached_property
    def slots(self) -> tuple[int, ...]:
        return tuple(self.slot_N.tolist())

    @cached_property
    def seen(self) -> tuple[slice | Tensor, ...]:
        """Of each cell, the slots that it reads."""
        return tuple(
            _as_slice(self.slot_N[i - self.back_R[self.back_R <= i]])
            for i in range(len(self.slot_N))
        )

    def on(self, device: torch.device) -> "DecodeWindow":
        return DecodeWindow(self.num_slots, moved(self.slot_N, device), moved(self.back_R, device))

    def reach(self, cell: int | Tensor) -> Reach:
        """Return what a cell keeps and reads.

        Args:
            cell: a number, or a tensor of one number on the window's device.
        """
        if isinstance(cell, int):
            return Reach(self.slots[cell], self.seen[cell], None)
        hidden_R = self.back_R > cell
        bias_R = torch.zeros(hidden_R.shape, dtype=torch.float32, device=cell.device)
        bias_1R = bias_R.masked_fill(hidden_R, -torch.inf)[None]
        slot_1 = self.slot_N.index_select(0, cell)
        if (
            len(self.back_R) == self.num_slots
        ):  # all of them, and slot s holds nothing before cell s
            return Reach(slot_1, slice(None), bias_1R)
        seen_R = self.slot_N.index_select(0, (cell - self.back_R).clamp_min(0))
        return Reach(slot_1, seen_R, bias_1R)


@lru_cache(maxsize=64)
def decode_window(pattern: Pattern, height: int, width: int) -> DecodeWindow:
    """Return the window of the causal form: what `mask` lets through, cell by cell.

    Rows and the convolution keep a ring as long as they reach back: W + 1 and 5W + 6 cells. A column's
    keys lie n cells apart, so nothing is forgotten there; they are kept column by column.
    """
    cell = torch.arange(height * width, device=HOST)
    back = {
        Pattern.ROW: cell[: width + 1],
        Pattern.COLUMN: cell[::width],
        Pattern.CONVOLUTION: window_offsets(width),
        Pattern.DENSE: cell,
    }[pattern]
    back = back[back < len(cell)]
    if pattern is Pattern.COLUMN:
        num_slots = height * width
        slot = cell % width * height + cell // width
    else:
        num_slots = int(back.max()) + 1
        slot = cell % num_slots
    return DecodeWindow(num_slots, slot, back)


def _as_slice(slots: Tensor) -> slice | Tensor:
    first, last = int(slots.min()), int(slots.max())
    return slice(first, last + 1) if last - first + 1 == len(slots) else slots.sort().values
