"""Cached decoding in both directions.

`prefill` reads everything that is given at once; `decode_step` then takes one id a sequence and
returns the states that say what comes next. `images` and `texts` wrap guidance, kept tokens, previews
and beams around these two. A group is a prompt (or a picture) with its candidates.

Shape letters: G groups, B sequences (G times candidates, group by group), T positions, P prefix
positions, C width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.device import HOST, can_record, moved, record
from vilg.model.generator import Generator
from vilg.model.patterns import DecodeWindow, Pattern, decode_window
from vilg.model.segments import Layout, Modality
from vilg.sampling.cache import LayerCache, keeping

# Recording takes about as long as so many steps.
FEWEST_RECORDED = 16


@dataclass(frozen=True)
class DecodeState:
    """Where a batch of sequences stands.

    The caches are written in place, never copied: only the newest state may be continued.

    Attributes:
        windows: what layers keep of the target, by their patterns.
        position: of the next input. A number where Python computes beside the model, since slices cost no
            copy; a tensor of one elsewhere, so that all steps are the same operations and nobody waits.
        recorded: the step as one launch (`recorded`).
    """

    layout: Layout
    caches: list[LayerCache]
    windows: Mapping[Pattern, DecodeWindow]
    position: int | Tensor
    recorded: Callable[[Tensor], Tensor] | None = None

    def taken(self, rows_B: Tensor) -> "DecodeState":
        """Return the state with these sequences in place of those there were; a beam goes on so."""
        caches = [cache.taken(rows_B) for cache in self.caches]
        return replace(self, caches=caches, recorded=None)

    def steady(self, device: torch.device) -> "DecodeState":
        """Return the state with its position as a tensor, and the windows where it is."""
        windows = {pattern: window.on(device) for pattern, window in self.windows.items()}
        position_1 = moved(torch.tensor([self.position]), device)
        return replace(self, windows=windows, position=position_1)


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
        valid_GT: for the whole layout; False on padding, which stands in the prefix only. On the host.

    Returns:
        the state and states_GTC, the last layer's states at the given positions.
    """
    num_given, num_prefix = ids_GT.shape[1], layout.length - layout.segments[-1].length
    assert num_given >= num_prefix and bool(valid_GT[:, num_prefix:].all())
    assert len({segment.branch for segment in layout.segments}) == 1, "one branch is written"
    beginning = layout.beginning(num_given)
    device, patterns = generator.device, generator.config.patterns
    bias_G11P = _bias(valid_GT[:, :num_prefix], device)
    caches: list[LayerCache] = []
    windows = {pattern: _window(layout, pattern) for pattern in patterns}
    state = DecodeState(layout, caches, windows, num_given)
    if device != HOST:
        state = state.steady(device)
    reads = generator.layer_reads(beginning, moved(valid_GT[:, : beginning.length], device))
    keeping_reads = [
        keeping(read, state.windows[pattern], bias_G11P, num_prefix, num_given, candidates, caches)
        for pattern, read in zip(patterns, reads, strict=True)
    ]
    # Inside an image, whole rows are read; nothing looks at the states and keys of the rest.
    ids_GT = F.pad(ids_GT, (0, beginning.length - num_given))
    states_GTC = generator(beginning, ids_GT, keeping_reads)[:, :num_given]
    return state, states_GTC


def _window(layout: Layout, pattern: Pattern) -> DecodeWindow:
    """Return what a layer keeps of the target: all of a text, since text reads densely."""
    if layout.segments[-1].modality is Modality.TEXT:
        return decode_window(Pattern.DENSE, 1, layout.segments[-1].length)
    return decode_window(pattern, layout.grid.height, layout.grid.width)


def _bias(valid_GP: Tensor, device: torch.device) -> Tensor | None:
    if bool(valid_GP.all()):
        return None
    bias_GP = torch.zeros(valid_GP.shape, dtype=torch.float32)
    return moved(bias_GP.masked_fill(~valid_GP, -torch.inf), device)[:, None, None]


def decode_step(
    generator: Generator, state: DecodeState, ids_B: Tensor
) -> tuple[DecodeState, Tensor]:
    """Feed one id a sequence; return the new state and states_BC at it."""
    if state.recorded is not None and isinstance(state.position, Tensor):
        states_BC = state.recorded(ids_B)
        state.position.add_(1)  # there the recorded step reads it
        return state, states_BC
    target = state.layout.segments[-1]
    place = state.position - (state.layout.length - target.length)
    reaches = {pattern: window.reach(place) for pattern, window in state.windows.items()}
    reads = [
        cache.read_step(reaches[pattern])
        for pattern, cache in zip(generator.config.patterns, state.caches, strict=True)
    ]
    place_1 = torch.tensor([place], device=ids_B.device) if isinstance(place, int) else place
    x_B1C = generator.embed_in(target, ids_B[:, None], place_1)
    states_B1C = generator.transformer(x_B1C, reads)
    return replace(state, position=state.position + 1), states_B1C[:, 0]


def recorded(
    generator: Generator, state: DecodeState, num_sequences: int, num_steps: int
) -> DecodeState:
    """Return a state whose steps are one launch each, where the device can do that and it pays.

    A step is hundreds of small operations that take less than launching them one by one. Recording runs the
    next step with other ids; the true ones' keys will overwrite what that leaves.
    """
    if not can_record(generator.device) or num_steps < FEWEST_RECORDED:
        return state
    ids_B = torch.zeros(num_sequences, dtype=torch.long, device=generator.device)
    return replace(
        state, recorded=record(lambda ids_B: decode_step(generator, state, ids_B)[1], ids_B)
    )
