"""Sparse attention that never makes a T x T score matrix: the fast form of a pattern.

Equal to dense attention under `with_padding(layout.visible(pattern), valid)`, which stays the
reference. Text, at either end of an edge, is dense: text queries are few. Image queries read all text
that their role allows and, of the image, a window: the grid's rows (or columns, transposed) are
groups of queries, and a group reads the few rows that the pattern can reach. Both parts share one
softmax.

Shape letters: B batch, H heads, T positions, N image cells, D head width, M text keys, G groups of
queries, Q queries a group, S keys a group.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.model.patterns import KERNEL, Pattern
from vilg.model.patterns import mask as pattern_mask
from vilg.model.segments import Grid, Layout, Modality, Role, Segment, with_padding


@dataclass(frozen=True)
class Window:
    """Which rows a row of queries reads, as steps up; of the transposed grid for columns.

    Narrower than the rows together: what a query reads of them is the pattern's own affair.
    """

    rows_up: tuple[int, ...]
    is_transposed: bool = False

    def group(self, cells_BHND: Tensor, grid: Grid) -> Tensor:
        """Return cells_BHGQD: one group a row, or a column."""
        B, H, N, D = cells_BHND.shape
        rows = cells_BHND.view(B, H, grid.height, grid.width, D)
        return rows.transpose(2, 3) if self.is_transposed else rows

    def ungroup(self, groups_BHGQD: Tensor) -> Tensor:
        """Undo `group`."""
        rows = groups_BHGQD.transpose(2, 3) if self.is_transposed else groups_BHGQD
        return rows.flatten(2, 3)

    def keys(self, groups_BHGQD: Tensor, fill: float = 0.0) -> Tensor:
        """Return keys_BHGSD: the rows that each group reads, side by side; `fill` off the grid."""
        G = groups_BHGQD.shape[2]
        shifted = []
        for up in self.rows_up:
            # A negative pad cuts: the group dimension moves by `up` and keeps its length.
            step = max(-G, min(G, up))
            shifted.append(F.pad(groups_BHGQD, (0, 0, 0, 0, step, -step), value=fill))
        return shifted[0] if len(shifted) == 1 else torch.cat(shifted, dim=3)


def window(pattern: Pattern, *, causal: bool) -> Window:
    """Return the rows that a pattern can reach; DENSE has no window."""
    reach = KERNEL // 2
    if pattern is Pattern.COLUMN:
        return Window((0,), is_transposed=True)
    if pattern is Pattern.ROW:
        return Window((1, 0) if causal else (0,))
    assert pattern is Pattern.CONVOLUTION
    # The causal window wraps round the left edge, and so touches one row more.
    return Window(tuple(range(reach + 1, -1, -1) if causal else range(reach, -reach - 1, -1)))


@lru_cache(maxsize=64)
def window_bias(pattern: Pattern, grid: Grid, causal: bool) -> Tensor:
    """Return bias_GQS: 0 where the pattern lets a query read a key of its group's window, else -inf.

    Read off `patterns.mask`, so that there is one definition of a pattern.
    """
    shape = window(pattern, causal=causal)
    cells = torch.arange(grid.num_cells, dtype=torch.float64).view(1, 1, -1, 1)
    queries_GQ = shape.group(cells, grid)[0, 0, :, :, 0]
    keys_GS = shape.keys(shape.group(cells, grid), fill=-1.0)[0, 0, :, :, 0]
    see_NN = pattern_mask(pattern, grid.height, grid.width, causal=causal)
    see_GQS = see_NN[queries_GQ.long()[:, :, None], keys_GS.long().clamp_min(0)[:, None, :]]
    see_GQS &= keys_GS[:, None, :] >= 0
    return torch.zeros(see_GQS.shape).masked_fill_(~see_GQS, -torch.inf)


def text_rows(layout: Layout, valid_BT: Tensor) -> dict[int, Tensor]:
    """Return see_B1MT of each text segment, by its first position; text reads alike in every layer."""
    see_TT = layout.visible(Pattern.DENSE).to(valid_BT.device)
    see_B1TT = with_padding(see_TT, valid_BT)
    return {
        here.start: see_B1TT[:, :, here]
        for segment, here, _ in layout.spans(0, layout.length)
        if segment.modality is Modality.TEXT
    }


def attend(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    *,
    layout: Layout,
    pattern: Pattern,
    valid_BT: Tensor,
    see_text: dict[int, Tensor],
) -> Tensor:
    """Return what every position of a layout reads, h_BHTD.

    Args:
        see_text: from `text_rows`, shared by the layers.
    """
    if pattern is Pattern.DENSE:
        see_B1TT = with_padding(layout.visible(pattern).to(q_BHTD.device), valid_BT)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=see_B1TT)
    parts = []
    for segment, here, _ in layout.spans(0, layout.length):
        if segment.modality is Modality.TEXT:
            part = F.scaled_dot_product_attention(
                q_BHTD[:, :, here], k_BHTD, v_BHTD, attn_mask=see_text[here.start]
            )
        else:
            part = _image_part(q_BHTD, k_BHTD, v_BHTD, layout, segment, here, pattern, valid_BT)
        parts.append(part)
    return torch.cat(parts, dim=2)


def _image_part(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    layout: Layout,
    segment: Segment,
    here: slice,
    pattern: Pattern,
    valid_BT: Tensor,
) -> Tensor:
    """Return what the cells of an image segment read."""
    causal = segment.role is Role.TARGET
    shape, grid = window(pattern, causal=causal), layout.grid
    q_BHGQD, k_BHGQD, v_BHGQD = (
        shape.group(x_BHTD[:, :, here], grid) for x_BHTD in (q_BHTD, k_BHTD, v_BHTD)
    )
    B, H, G, Q, D = q_BHGQD.shape
    q_BHGQD = q_BHGQD * D**-0.5
    scores = q_BHGQD @ shape.keys(k_BHGQD).transpose(-1, -2)
    scores = scores + window_bias(pattern, grid, causal).to(scores)

    texts = _visible_texts(layout, segment, here)
    if not texts:
        return shape.ungroup(scores.softmax(dim=-1) @ shape.keys(v_BHGQD))
    k_BHMD, v_BHMD = (
        torch.cat([x_BHTD[:, :, text] for text in texts], dim=2) for x_BHTD in (k_BHTD, v_BHTD)
    )
    valid_BM = torch.cat([valid_BT[:, text] for text in texts], dim=1)
    text_scores = q_BHGQD.reshape(B, H, G * Q, D) @ k_BHMD.transpose(-1, -2)
    text_scores = text_scores.masked_fill(~valid_BM[:, None, None], -torch.inf)
    M = k_BHMD.shape[2]
    weights = torch.cat([text_scores.view(B, H, G, Q, M), scores], dim=-1).softmax(dim=-1)
    of_text, of_window = weights.split([M, scores.shape[-1]], dim=-1)
    h_BHGQD = of_window @ shape.keys(v_BHGQD)
    h_BHGQD = h_BHGQD + (of_text.reshape(B, H, G * Q, M) @ v_BHMD).view(B, H, G, Q, D)
    return shape.ungroup(h_BHGQD)


def _visible_texts(layout: Layout, segment: Segment, here: slice) -> list[slice]:
    """Return the text segments that an image segment reads: whole ones, by their roles."""
    return [
        text
        for other, text, _ in layout.spans(0, layout.length)
        if other.modality is Modality.TEXT
        and (other.role is Role.SOURCE or (segment.role is Role.TARGET and text.start < here.start))
    ]
