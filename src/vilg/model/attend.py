"""Sparse attention that never makes a T x T score matrix: the fast form of a pattern.

Equal to dense attention under `with_padding(layout.visible(pattern), valid)`, which stays the
reference. Where query or key is text nothing is masked by pattern; there are few such queries. Image
queries go in groups, a group being a row of the grid, or a column. A group reads the visible text and the
few rows (or columns) that the pattern can reach, under a mask of that size, in one softmax. With the groups
on the batch dimension this is PyTorch's own fused attention, forward and backward but for bf16 gradients of few
keys on a CPU (docs/lab/decisions/0008).

Shape letters: B batch, H heads, T positions, D head width, G groups of queries, Q queries a group, S keys
a group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.device import HOST
from vilg.model.patterns import KERNEL, Pattern, sees
from vilg.model.segments import Grid, Layout, Modality, Role, with_padding

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

# From queries, keys and values of a layer, each _BTHD, to what every query reads.
Read = Callable[[Tensor, Tensor, Tensor], Tensor]
# A pattern's way to read a whole layout, of which valid_BT is False on padding.
Form = Callable[[Pattern, Layout, Tensor], Read]

# On grids of fewer cells than this the dense form is taken: groups of queries are too small to be worth a
# matrix product each (docs/lab/decisions/0008, at width 256: 0.3-0.5x at 64 cells, 0.5-1.1x at 256).
FEWEST_CELLS = 512

# Up to this many keys, gradients in bf16 on a CPU go through scores that are kept: there the fused kernel's
# backward pass is slow where keys are few (docs/lab/decisions/0008).
MOST_KEPT_KEYS = 256


def masked(see_B1TS: Tensor) -> Read:
    """Return attention under a boolean mask."""

    def read(q_BTHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BSHD, v_BSHD))
        in_bf16_on_cpu = q.dtype is torch.bfloat16 and q.device == HOST
        if in_bf16_on_cpu and q.requires_grad and k.shape[2] <= MOST_KEPT_KEYS:
            return with_kept_scores(q, k, v, see_B1TS).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=see_B1TS).transpose(1, 2)

    return read


def with_kept_scores(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, see_B1TS: Tensor) -> Tensor:
    """Return what the fused kernel returns, but for one rounding more: of scores, before the softmax.

    The softmax itself is computed in fp32 and rounded, as there.
    """
    scores_BHTS = (q_BHTD * q_BHTD.shape[-1] ** -0.5) @ k_BHSD.transpose(2, 3)
    hidden_BHTS = scores_BHTS.masked_fill_(~see_B1TS, -torch.inf)
    return hidden_BHTS.softmax(-1, dtype=v_BHSD.dtype) @ v_BHSD


def attend_dense(pattern: Pattern, layout: Layout, valid_BT: Tensor) -> Read:
    """Return a pattern's reference form, every score computed and most of them masked."""
    return masked(with_padding(_visible(pattern, layout, valid_BT.device), valid_BT))


# Masks are made once a layout and device. What is kept of them is never read by autograd itself, so one that was
# made under inference mode does no harm.
@lru_cache(maxsize=64)
def _visible(pattern: Pattern, layout: Layout, device: torch.device) -> Tensor:
    return layout.visible(pattern, device)


def attend(pattern: Pattern, layout: Layout, valid_BT: Tensor) -> Read:
    """Return a pattern's fast form: only scores of a query's neighbourhood and of text are computed."""
    if pattern is Pattern.DENSE:
        return attend_dense(pattern, layout, valid_BT)
    lengths = layout.lengths
    segment_reads = [
        _text_read(layout, i, valid_BT)
        if segment.modality is Modality.TEXT
        else _image_read(pattern, layout, i, valid_BT)
        for i, segment in enumerate(layout.segments)
    ]

    def read(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor) -> Tensor:
        # Split, not sliced: the gradient of every slice would be a tensor of zeros as long as all.
        q, k, v = (x_BTHD.split(lengths, dim=1) for x_BTHD in (q_BTHD, k_BTHD, v_BTHD))
        return torch.cat([segment_read(q, k, v) for segment_read in segment_reads], dim=1)

    return read


# From queries, keys and values in segments, each _BTHD, to what the queries of one segment read.
_SegmentRead = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Tensor]


def _text_read(layout: Layout, i: int, valid_BT: Tensor) -> _SegmentRead:
    """Return what the positions of text segment i read: all that their roles allow."""
    if layout.segments[i].length == 0:  # the null prompt, where a batch has no other
        return lambda q, k, v: q[i]
    ends = [0, *accumulate(layout.lengths)]
    # A text reads whole segments, but its own up to itself; those after the last that it reads are cut.
    is_source = layout.segments[i].role is Role.SOURCE
    sources = [j for j, s in enumerate(layout.segments) if s.role is Role.SOURCE and s.length]
    num_read = 1 + (sources[-1] if is_source else max([i, *sources]))
    see_QT = _visible_to_text(layout, ends[i], ends[i + 1], valid_BT.device)
    attention = masked(with_padding(see_QT, valid_BT, first=ends[i])[..., : ends[num_read]])
    return lambda q, k, v: attention(
        q[i], torch.cat(tuple(k[:num_read]), dim=1), torch.cat(tuple(v[:num_read]), dim=1)
    )


@lru_cache(maxsize=64)
def _visible_to_text(layout: Layout, first: int, stop: int, device: torch.device) -> Tensor:
    order_T = torch.arange(layout.length, device=device)
    return layout.sees_by_role(order_T[first:stop, None], order_T[None, :])


def _image_read(pattern: Pattern, layout: Layout, i: int, valid_BT: Tensor) -> _SegmentRead:
    """Return what the cells of image segment i read, group by group."""
    causal, grid = layout.segments[i].role is Role.TARGET, layout.grid
    reach, texts = window(pattern, grid.width, causal=causal), _visible_texts(layout, i)
    valid = valid_BT.split(layout.lengths, dim=1)
    see_GQS = window_mask(pattern, grid, causal, valid_BT.device)
    (G, Q, _), B = see_GQS.shape, len(valid_BT)
    see_BGQS = torch.cat(
        [
            *(valid[j][:, None, None].expand(-1, G, Q, -1) for j in texts),
            see_GQS.expand(B, -1, -1, -1),
        ],
        dim=3,
    )
    attention = masked(see_BGQS.flatten(0, 1)[:, None])

    def keys(x: Sequence[Tensor]) -> Tensor:
        """Lay out what each group reads: the text again for every group, and its rows of the grid."""
        groups = reach.rows(reach.group(x[i], grid))
        text = (x[j][:, None].expand(-1, G, -1, -1, -1) for j in texts)
        return torch.cat([*text, *groups], dim=2).flatten(0, 1)

    def segment_read(q: Sequence[Tensor], k: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
        q_BGQHD = reach.group(q[i], grid)
        h = attention(q_BGQHD.flatten(0, 1), keys(k), keys(v))
        return reach.ungroup(h.view(q_BGQHD.shape))

    return segment_read


def _visible_texts(layout: Layout, i: int) -> list[int]:
    """Return the text segments that image segment i reads: whole ones, by their roles."""
    reader = layout.segments[i]
    return [
        j
        for j, segment in enumerate(layout.segments)
        if segment.modality is Modality.TEXT
        and (
            segment.role is Role.SOURCE
            or (reader.role is Role.TARGET and segment.branch == reader.branch and j < i)
        )
    ]


@dataclass(frozen=True)
class Window:
    """Which rows a row of queries reads, as steps up; of the transposed grid for columns.

    A query reads less than these rows together: which of their cells is the pattern's own affair.
    """

    rows_up: tuple[int, ...]
    is_transposed: bool = False

    def group(self, cells: Tensor, grid: Grid) -> Tensor:
        """Cells in raster order on dimension 1 become dimensions 1 and 2: groups and their members."""
        rows = cells.unflatten(1, (grid.height, grid.width))
        return rows.transpose(1, 2) if self.is_transposed else rows

    def ungroup(self, groups: Tensor) -> Tensor:
        """Undo `group`."""
        return (groups.transpose(1, 2) if self.is_transposed else groups).flatten(1, 2)

    def rows(self, groups: Tensor, fill: int = 0) -> list[Tensor]:
        """Return the rows that each group reads, to be joined on dimension 2; `fill` off the grid."""
        G = groups.shape[1]
        shifted = []
        for up in self.rows_up:
            # A negative pad cuts: the group dimension moves by `up` and keeps its length.
            step = max(-G, min(G, up))
            behind = (0, 0) * (groups.dim() - 2)
            shifted.append(F.pad(groups, (*behind, step, -step), value=fill) if step else groups)
        return shifted


def window(pattern: Pattern, width: int, *, causal: bool) -> Window:
    """Return the rows that a pattern can reach on a grid of this width; DENSE has no window."""
    reach = KERNEL // 2
    if pattern is Pattern.COLUMN:
        return Window((0,), is_transposed=True)
    if pattern is Pattern.ROW:
        return Window((1, 0) if causal else (0,))
    assert pattern is Pattern.CONVOLUTION
    if not causal:
        return Window(tuple(range(reach, -reach - 1, -1)))
    # From the first column the raster goes on, 5 cells left of 5 rows up: into one row more, or several
    # where rows are shorter than that.
    return Window(tuple(range(reach + -(-reach // width), -1, -1)))


@lru_cache(maxsize=64)
def window_mask(pattern: Pattern, grid: Grid, causal: bool, device: torch.device = HOST) -> Tensor:
    """Return see_GQS: whether the pattern lets a query read a key of its group's window."""
    reach = window(pattern, grid.width, causal=causal)
    queries_1GQ = reach.group(torch.arange(grid.num_cells, device=device)[None], grid)
    keys_GS = torch.cat(reach.rows(queries_1GQ, fill=-1), dim=2)[0]
    queries_GQ1, keys_G1S = queries_1GQ[0, :, :, None], keys_GS[:, None, :]
    return sees(pattern, queries_GQ1, keys_G1S, grid.width, causal=causal) & (keys_G1S >= 0)


def attend_flex(pattern: Pattern, layout: Layout, valid_BT: Tensor) -> Read:
    """Return a pattern's form for CUDA: FlexAttention, which leaves out blocks of scores that are masked whole.

    The relation itself is compiled into the kernel, and nothing is copied. On a CPU it is a slow reference without
    gradients. Padding, which differs from batch to batch, is hidden score by score.
    """
    from torch.nn.attention.flex_attention import flex_attention

    is_cuda = valid_BT.device.type == "cuda"
    flex = torch.compile(flex_attention, dynamic=False) if is_cuda else flex_attention
    block_mask = _block_mask(pattern, layout, valid_BT.device)

    def without_padding(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(valid_BT[b, k] | (q == k), score, -torch.inf)

    def read(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
        return flex(q, k, v, score_mod=without_padding, block_mask=block_mask).transpose(1, 2)

    return read


@lru_cache(maxsize=64)
def _block_mask(pattern: Pattern, layout: Layout, device: torch.device) -> "BlockMask":
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return layout.sees(pattern, q, k)

    T = layout.length
    with torch.inference_mode(False):  # autograd keeps it
        return create_block_mask(sees, None, None, T, T, device=device)
