"""Cached decoding in both directions.

`prefill` reads everything that is given at once; `decode_step` then takes one id a sequence and
returns the logits of the next. Guidance, temperature and captions are wrapped around these two.

Shape letters: B batch, M text tokens, N image tokens, T positions, C width, K codes, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.model.attend import Read, masked
from vilg.model.generator import (
    Generator,
    image_to_text_layout,
    pad_texts,
    text_to_image_layout,
)
from vilg.model.patterns import Pattern
from vilg.model.segments import Layout, with_padding
from vilg.sampling.noise import draw, draw_uniforms
from vilg.text import TextTokenizer

Progress = Callable[[int, int], None]  # called with (steps done, steps in all)


@dataclass
class LayerCache:
    """Keys and values of one layer, allocated once for the whole sequence."""

    k_BSHD: Tensor
    v_BSHD: Tensor

    def read(self, see_B1TS: Tensor, start: int) -> Read:
        """Return attention that stores the keys from `start` on and reads all so far.

        Args:
            see_B1TS: what the positions from `start` on may read.
        """
        attention, stop = masked(see_B1TS), see_B1TS.shape[3]

        def read(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor) -> Tensor:
            self.k_BSHD[:, start:stop] = k_BTHD
            self.v_BSHD[:, start:stop] = v_BTHD
            return attention(q_BTHD, self.k_BSHD[:, :stop], self.v_BSHD[:, :stop])

        return read


@dataclass(frozen=True)
class DecodeState:
    """Where a batch of sequences stands. The caches are written in place, never copied."""

    layout: Layout
    see_B1TT: dict[Pattern, Tensor]
    caches: list[LayerCache]
    position: int  # of the next input


def _forward(
    generator: Generator, state: DecodeState, ids_BT: Tensor
) -> tuple[DecodeState, Tensor]:
    """Feed the ids of the next positions; return the new state and states_BTC at them."""
    start, stop = state.position, state.position + ids_BT.shape[1]
    rows = {pattern: see[:, :, start:stop, :stop] for pattern, see in state.see_B1TT.items()}
    reads = [
        cache.read(rows[pattern], start)
        for pattern, cache in zip(generator.config.patterns, state.caches, strict=True)
    ]
    states_BTC = generator(state.layout, ids_BT, reads, start)
    return replace(state, position=stop), states_BTC


def prefill(
    generator: Generator, layout: Layout, ids_BT: Tensor, valid_BT: Tensor
) -> tuple[DecodeState, Tensor]:
    """Read the first positions of a layout.

    Args:
        ids_BT: ids of these positions.
        valid_BT: for the whole layout; False on padding.

    Returns:
        the state and states_BTC, the last layer's states there.
    """
    config, weight = generator.config, generator.image_head.weight
    see_B1TT = {
        pattern: with_padding(layout.visible(pattern).to(valid_BT.device), valid_BT)
        for pattern in set(config.patterns)
    }
    shape = (len(ids_BT), layout.length, config.num_heads, config.width // config.num_heads)
    caches = [
        LayerCache(*(torch.empty(shape, dtype=weight.dtype, device=weight.device) for _ in "kv"))
        for _ in config.patterns
    ]
    return _forward(generator, DecodeState(layout, see_B1TT, caches, 0), ids_BT)


def decode_step(
    generator: Generator, state: DecodeState, ids_B: Tensor
) -> tuple[DecodeState, Tensor]:
    """Feed one id a sequence; return the new state and states_BC at it."""
    moved, states_B1C = _forward(generator, state, ids_B[:, None])
    return moved, states_B1C[:, 0]


@dataclass(frozen=True)
class Drawn:
    """Images in tokens, and the generator's states at z_1 .. z_N where they were asked for."""

    image_ids_BN: Tensor
    states_BNC: Tensor | None = None


@torch.inference_mode()
def draw_images(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    guidance: float = 1.0,
    keep_states: bool = False,
    progress: Progress | None = None,
) -> Drawn:
    """Draw one image a prompt.

    Args:
        seeds: one an image; an image depends on its prompt and its seed, not on the batch.
        guidance: s in `null + s * (conditional - null)` on the logits (Make-A-Scene, Parti; not in
            the paper). 1 is no guidance and costs nothing.
        keep_states: return the states too, those of the prompt and never of the null prompt. They come
            from the cached steps; only the last token is fed through for its state alone.
    """
    B = len(texts)
    assert len(seeds) == B
    guided = guidance != 1
    rows = [*texts, *([[]] * B)] if guided else list(texts)  # null prompts below the real ones
    device = generator.image_head.weight.device
    text_BM, valid_BM = (tensor.to(device) for tensor in pad_texts(rows))
    grid = generator.config.grid
    layout = text_to_image_layout(text_BM.shape[1], grid)
    ids_BT = F.pad(text_BM, (0, 1), value=TextTokenizer.boi_id)
    state, states_BTC = prefill(
        generator, layout, ids_BT, F.pad(valid_BM, (0, 1 + grid.num_cells), value=True)
    )
    states_BC = states_BTC[:, -1]
    image_ids_BN = torch.empty(B, grid.num_cells, dtype=torch.long, device=device)
    states: list[Tensor] = []
    for k in range(grid.num_cells):
        logits_BK = generator.image_logits(states_BC)
        if guided:
            conditional_BK, null_BK = logits_BK.chunk(2)
            logits_BK = null_BK + guidance * (conditional_BK - null_BK)
        ids_B = draw(logits_BK, draw_uniforms(seeds, k), temperature=temperature, top_k=top_k)
        image_ids_BN[:, k] = ids_B
        if progress:
            progress(k + 1, grid.num_cells)
        if k + 1 < grid.num_cells or keep_states:
            inputs_B = ids_B.repeat(2) if guided else ids_B
            state, states_BC = decode_step(generator, state, inputs_B)
        if keep_states:
            states.append(states_BC[:B])
    return Drawn(image_ids_BN, torch.stack(states, dim=1) if keep_states else None)


@torch.inference_mode()
def generate_texts(
    generator: Generator,
    image_ids_BN: Tensor,
    language_ids: Sequence[int],
    seeds: Sequence[int],
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    max_length: int | None = None,
) -> list[list[int]]:
    """Write one text an image, without language and end tokens; greedy unless a temperature is set.

    Args:
        max_length: tokens after which a text is cut off; None, and at most, the longest text that the
            model was trained on.
    """
    B, N = image_ids_BN.shape
    device = image_ids_BN.device
    longest = generator.config.max_text - 1  # in training the end token takes the last place
    length = longest if max_length is None else min(max_length, longest)
    layout = image_to_text_layout(length, generator.config.grid)
    ids_BT = torch.cat(
        [image_ids_BN, torch.tensor(list(language_ids), device=device)[:, None]], dim=1
    )
    valid_BT = torch.ones(B, layout.length, dtype=torch.bool, device=device)
    state, states_BTC = prefill(generator, layout, ids_BT, valid_BT)
    states_BC = states_BTC[:, -1]
    written_BM = torch.full((B, length), TextTokenizer.eos_id, device=device)
    ended_B = torch.zeros(B, dtype=torch.bool, device=device)
    for k in range(length):
        logits_BV = generator.text_logits(states_BC)
        ids_B = draw(logits_BV, draw_uniforms(seeds, k), temperature=temperature, top_k=top_k)
        written_BM[:, k] = torch.where(ended_B, TextTokenizer.eos_id, ids_B)
        ended_B |= ids_B == TextTokenizer.eos_id
        if bool(ended_B.all()) or k + 1 == length:
            break
        state, states_BC = decode_step(generator, state, ids_B)
    return [
        row[: row.index(TextTokenizer.eos_id)] if TextTokenizer.eos_id in row else row
        for row in written_BM.tolist()
    ]
