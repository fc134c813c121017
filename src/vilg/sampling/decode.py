"""Cached decoding in both directions.

`prefill` reads everything that is given at once; `decode_step` then takes one id a sequence and
returns the states that say what comes next. `images` and `texts` wrap guidance, kept tokens, previews
and beams around these two. A group is a prompt (or a picture) with its candidates.

Shape letters: G groups, B sequences (G times candidates, group by group), T positions, P prefix
positions, C width.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.model.generator import Generator
from vilg.model.patterns import DecodeWindow, Pattern, decode_window
from vilg.model.segments import Layout, Modality
from vilg.sampling.cache import LayerCache, keeping


@dataclass(frozen=True)
class DecodeState:
    """Where a batch of sequences stands.

    The caches are written in place, never copied: only the newest state may be continued.
    """

    layout: Layout
    caches: list[LayerCache]
    position: int  # of the next input

    def taken(self, rows_B: Tensor) -> "DecodeState":
        """Return the state with these sequences in place of those there were; a beam goes on so."""
        return replace(self, caches=[cache.taken(rows_B) for cache in self.caches])


def prefill(
    generator: Generator,
    layout: Layout,
    ids_GT: Tensor,
    valid_GT: Tensor,
    candidates: int = 1,
) -> tuple[DecodeState, Tensor]:
    """Read the first positions of a layout.

    The last segment is the target; what stands before it must be given whole and is shared by the
    candidates of a group.

    Args:
        ids_GT: ids of the given positions.
        valid_GT: for the whole layout; False on padding, which stands in the prefix only.

    Returns:
        the state and states_GTC, the last layer's states at the given positions.
    """
    num_given, num_prefix = ids_GT.shape[1], layout.length - layout.segments[-1].length
    assert num_given >= num_prefix and bool(valid_GT[:, num_prefix:].all())
    assert len({segment.branch for segment in layout.segments}) == 1, "one branch is written"
    beginning = layout.beginning(num_given)
    bias_G11P = _bias(valid_GT[:, :num_prefix], generator.dtype)
    caches: list[LayerCache] = []
    reads = generator.layer_reads(beginning, valid_GT[:, : beginning.length])
    keeping_reads = [
        keeping(
            read, _window(layout, pattern), bias_G11P, num_prefix, num_given, candidates, caches
        )
        for pattern, read in zip(generator.config.patterns, reads, strict=True)
    ]
    # Inside an image, whole rows are read; nothing looks at the states and keys of the rest.
    ids_GT = F.pad(ids_GT, (0, beginning.length - num_given))
    states_GTC = generator(beginning, ids_GT, keeping_reads)[:, :num_given]
    return DecodeState(layout, caches, num_given), states_GTC


def _window(layout: Layout, pattern: Pattern) -> DecodeWindow:
    """Return what a layer keeps of the target: all of a text, since text reads densely."""
    if layout.segments[-1].modality is Modality.TEXT:
        return decode_window(Pattern.DENSE, 1, layout.segments[-1].length)
    return decode_window(pattern, layout.grid.height, layout.grid.width)


def _bias(valid_GP: Tensor, dtype: torch.dtype) -> Tensor | None:
    if bool(valid_GP.all()):
        return None
    bias_G11P = torch.zeros(valid_GP.shape, dtype=dtype, device=valid_GP.device)[:, None, None]
    return bias_G11P.masked_fill(~valid_GP[:, None, None], -torch.inf)


def decode_step(
    generator: Generator, state: DecodeState, ids_B: Tensor
) -> tuple[DecodeState, Tensor]:
    """Feed one id a sequence; return the new state and states_BC at it."""
    target = state.layout.segments[-1].length
    place = state.position - (state.layout.length - target)
    reads = [cache.read_step(place) for cache in state.caches]
    states_B1C = generator(state.layout, ids_B[:, None], reads, state.position)
    return replace(state, position=state.position + 1), states_B1C[:, 0]
