"""A task is a list of segments; one predicate decides who sees whom (paper section 3.1.2, figure 2).

    text to image     [text source] [start: text target] [image target]
    image to text     [image source] [text target]
    image to texts    [image source] [text target 0] [text target 1]
    question          [image source] [text source] [text target]

The start token is text-like: it sees the source, and every target cell sees it. A new task is a new
list of segments, never a branch in the transformer.

Shape letters: B batch, T positions, Q query positions, S key positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate

import torch
from torch import Tensor

from vilg.device import HOST
from vilg.model.patterns import Pattern
from vilg.model.patterns import sees as pattern_sees


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"


class Role(StrEnum):
    """Sources are read whole, in both directions; targets are written left to right."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True)
class Segment:
    """A run of positions of one modality and one role.

    Attributes:
        branch: a target goes on from earlier targets of its own branch and knows nothing of others, so
            that several texts can be scored after one reading of a picture.
    """

    modality: Modality
    role: Role
    length: int
    branch: int = 0


@dataclass(frozen=True)
class Grid:
    """The token grid of a picture, in cells."""

    height: int
    width: int

    @property
    def num_cells(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Layout:
    """The positions of a sequence of segments over one grid.

    An image segment covers the whole grid in raster order; a query's cell is the cell of its input.
    """

    segments: tuple[Segment, ...]
    grid: Grid

    def __post_init__(self) -> None:
        images = [s for s in self.segments if s.modality is Modality.IMAGE]
        assert len(images) <= 1, "there is one grid, so there is one image"
        assert all(image.length == self.grid.num_cells for image in images)

    @property
    def lengths(self) -> list[int]:
        return [segment.length for segment in self.segments]

    @property
    def length(self) -> int:
        return sum(self.lengths)

    def beginning(self, stop: int) -> "Layout":
        """Return the layout of the first `stop` positions; inside an image, up to the end of their row.

        Only a target may be cut off: its causal patterns do not depend on later rows.
        """
        segments, grid, first = [], Grid(1, 1), 0
        for segment in self.segments:
            if first >= stop:
                break
            length = min(segment.length, stop - first)
            if segment.modality is Modality.IMAGE:
                assert length == segment.length or segment.role is Role.TARGET
                grid = Grid(-(-length // self.grid.width), self.grid.width)
                length = grid.num_cells
            segments.append(replace(segment, length=length))
            first += length
        return Layout(tuple(segments), grid)

    def spans(self, start: int, stop: int) -> Iterator[tuple[Segment, slice, slice]]:
        """Cut positions [start, stop) into segments.

        Yields:
            the segment, the slice within [start, stop), and the slice within the segment.
        """
        first = 0
        for segment in self.segments:
            last = first + segment.length
            low, high = max(first, start), min(last, stop)
            if low < high:
                yield segment, slice(low - start, high - start), slice(low - first, high - first)
            first = last

    def _of(self, positions: Tensor, values: Sequence[int]) -> Tensor:
        """Return what the segment of each position has, by comparisons alone: in any kernel, on any device."""
        found = torch.full_like(positions, values[0])
        for first, value in zip(accumulate(self.lengths), values[1:], strict=False):
            found = torch.where(positions >= first, value, found)
        return found

    def _is_target(self, positions: Tensor) -> Tensor:
        return self._of(positions, [s.role is Role.TARGET for s in self.segments]) > 0

    def sees_by_role(self, query: Tensor, key: Tensor) -> Tensor:
        """Return, for positions of any shapes that broadcast, whether the roles let the one read the other.

        A source sees sources; a target sees sources and earlier targets of its branch.
        """
        branches = [segment.branch for segment in self.segments]
        same_branch = self._of(query, branches) == self._of(key, branches)
        goes_on = self._is_target(query) & same_branch & (key <= query)
        return ~self._is_target(key) | goes_on

    def sees(self, pattern: Pattern, query: Tensor, key: Tensor) -> Tensor:
        """Return, for positions of any shapes that broadcast, whether the one may read the other.

        Query q sees key k if and only if the roles allow it (source sees source; target sees source
        and earlier target of its branch) and, when both sit on image cells, the pattern allows it. An edge with
        text at either end is dense.
        """
        is_image = [segment.modality is Modality.IMAGE for segment in self.segments]
        both_image = (self._of(query, is_image) > 0) & (self._of(key, is_image) > 0)
        first_cell = sum(self.lengths[: is_image.index(True)]) if any(is_image) else 0
        causal, two_way = (
            pattern_sees(
                pattern, query - first_cell, key - first_cell, self.grid.width, causal=is_causal
            )
            for is_causal in (True, False)
        )
        cells = torch.where(self._is_target(query), causal, two_way)
        return self.sees_by_role(query, key) & (cells | ~both_image)

    def visible(self, pattern: Pattern, device: torch.device = HOST) -> Tensor:
        """Return see_TT: `sees` of every pair of positions."""
        order_T = torch.arange(self.length, device=device)
        return self.sees(pattern, order_T[:, None], order_T[None, :])


def with_padding(see_QT: Tensor, valid_BT: Tensor, first: int = 0) -> Tensor:
    """Hide padded keys from everyone but themselves.

    A padded position keeps sight of itself, because a softmax over nothing is NaN.

    Args:
        first: position of the first query.

    Returns:
        see_B1QT: heads share one mask.
    """
    Q, T = see_QT.shape
    order_T = torch.arange(T, device=see_QT.device)
    itself_QT = order_T[first : first + Q, None] == order_T[None, :]
    return ((see_QT & valid_BT[:, None, :]) | itself_QT)[:, None]
