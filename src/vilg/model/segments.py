"""A task is a list of segments; one predicate decides who sees whom (paper section 3.1.2, figure 2).

    text to image     [text source] [start: text target] [image target]
    image to text     [image source] [text target]
    image to texts    [image source] [text target 0] [text target 1]
    question          [image source] [text source] [text target]

The start token is text-like: it sees the source, and every target cell sees it. A new task is a new
list of segments, never a branch in the transformer.

Shape letters: B batch, T positions, Q query positions, S key positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from vilg.device import HOST
from vilg.model.patterns import Pattern
from vilg.model.patterns import mask as pattern_mask


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

    @cached_property
    def is_target_T(self) -> Tensor:
        return self._by_segment([s.role is Role.TARGET for s in self.segments])

    @cached_property
    def is_image_T(self) -> Tensor:
        return self._by_segment([s.modality is Modality.IMAGE for s in self.segments])

    @cached_property
    def branch_T(self) -> Tensor:
        return self._by_segment([s.branch for s in self.segments])

    @cached_property
    def cell_T(self) -> Tensor:
        """The cell of each image position; 0, and never used, at text."""
        places = [torch.arange(length, device=HOST) for length in self.lengths]
        return torch.cat(places) * self.is_image_T

    def _by_segment(self, values: list[bool] | list[int]) -> Tensor:
        """Repeat a value of each segment at its positions. Masks are made on the host, whatever is set."""
        return torch.tensor(values, device=HOST).repeat_interleave(
            torch.tensor(self.lengths, device=HOST)
        )

    def visible_by_role(self, queries: slice) -> Tensor:
        """Return see_QT of these query positions.

        A source sees sources; a target sees sources and earlier targets of its branch.
        """
        order_T = torch.arange(self.length, device=HOST)
        target_QT = self.is_target_T[queries, None] & self.is_target_T[None, :]
        earlier_QT = order_T[None, :] <= order_T[queries, None]
        branch_QT = self.branch_T[queries, None] == self.branch_T[None, :]
        return ~self.is_target_T[None, :] | (target_QT & branch_QT & earlier_QT)

    def visible(self, pattern: Pattern) -> Tensor:
        """Return see_TT: True where the query position (first) may read the key position.

        Query q sees key k if and only if the roles allow it (source sees source; target sees source
        and earlier target of its branch) and, when both sit on image cells, the pattern allows it. An edge with
        text at either end is dense.
        """
        causal, two_way = (
            pattern_mask(pattern, self.grid.height, self.grid.width, causal=is_causal)[
                self.cell_T[:, None], self.cell_T[None, :]
            ]
            for is_causal in (True, False)
        )
        cells_TT = torch.where(self.is_target_T[:, None], causal, two_way)
        both_image_TT = self.is_image_T[:, None] & self.is_image_T[None, :]
        return self.visible_by_role(slice(None)) & (cells_TT | ~both_image_TT)


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
