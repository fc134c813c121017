"""Images from prompts, token by token: guidance, candidates, and tokens that are kept.

Shape letters: G groups (prompts), B images (G times candidates, group by group), M text tokens, N image
tokens, T positions, C width, K codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.device import in_double, moved
from vilg.model.defaults import Decoder, GuidanceSchedule, SamplingConfig
from vilg.model.generator import Generator, pad_texts, text_to_image_layout
from vilg.model.segments import Grid
from vilg.sampling.decode import DecodeState, decode_step, prefill, recorded
from vilg.sampling.noise import draw, draw_uniforms, is_sound
from vilg.text import TextTokenizer

# Called after every token with image_ids_Bk, all that stand so far; an exception ends the drawing.
Watch = Callable[[Tensor], None]


@dataclass(frozen=True)
class Kept:
    """Tokens that are not drawn: what an edit leaves alone.

    Attributes:
        image_ids_GN: an image a group; of its tokens only the kept ones count.
        keep_GN: True where the token stays; on the host, where it decides what is done.
    """

    image_ids_GN: Tensor
    keep_GN: Tensor

    @classmethod
    def nothing(cls, num_groups: int, grid: Grid) -> Self:
        ids_GN = torch.zeros(num_groups, grid.num_cells, dtype=torch.long)
        return cls(ids_GN, ids_GN.bool())

    def has_kept_behind(self) -> Tensor:
        """Return for each group whether a kept cell follows one that is drawn."""
        return (self.keep_GN & (~self.keep_GN).cumsum(dim=1).bool()).any(dim=1)

    def num_leading(self, grid: Grid) -> int:
        """Return how many cells stand in rows that every group keeps whole, from the top on."""
        is_whole_H = self.keep_GN.view(-1, grid.height, grid.width).all(dim=2).all(dim=0)
        return int(is_whole_H.int().cumprod(dim=0).sum()) * grid.width


@dataclass(frozen=True)
class Drawn:
    """Images in tokens.

    Attributes:
        states_BNC: the generator's states at z_1 .. z_N, where the end-to-end decoder needs them.
        kept_log_prob_B: of an edit, the sum of log P(z_k | t, z_<k) over kept tokens, in nats: how well
            what was drawn goes with what was kept behind it.
    """

    image_ids_BN: Tensor
    states_BNC: Tensor | None = None
    kept_log_prob_B: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put batches below one another."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        joined: list[Any] = [None if xs[0] is None else torch.cat(xs) for xs in columns]
        return cls(*joined)

    def chosen(self, rows: Sequence[int]) -> Self:
        """Return some of the images, in this order."""
        rows_X = moved(torch.tensor(list(rows)), self.image_ids_BN.device)
        chosen: list[Any] = [None if x is None else x[rows_X] for x in vars(self).values()]
        return type(self)(*chosen)


@torch.inference_mode()
def draw_images(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingConfig,
    *,
    kept: Kept | None = None,
    watch: Watch | None = None,
) -> Drawn:
    """Draw images of prompts.

    Guidance is s in `null + s * (conditional - null)` on the logits (Make-A-Scene, Parti; not in the
    paper); 1 is no guidance and costs nothing. The states for the end-to-end decoder are those of the
    prompt and never of the null prompt. They come from the cached steps; only the last token is fed
    through for its state alone.

    Args:
        texts: one a group.
        seeds: as many for every group; an image depends on its prompt and its seed, not on the batch.
    """
    B, grid, device = len(seeds), generator.config.grid, generator.device
    given = kept or Kept.nothing(len(texts), grid)
    candidates, N, begin = B // len(texts), grid.num_cells, given.num_leading(grid)
    keep_BN, image_ids_BN = (
        moved(x_GN, device).repeat_interleave(candidates, dim=0)
        for x_GN in (given.keep_GN, given.image_ids_GN)
    )
    # Below the rows of the prompts, as many of the null prompt.
    copies = 1 if settings.guidance == 1 else 2
    rows = [*texts, *([[]] * (copies - 1) * len(texts))]
    first_XN = given.image_ids_GN[:, :begin].repeat(copies, 1)
    state, states_XTC = _read_prompts(generator, rows, moved(first_XN, device), candidates)
    state = recorded(generator, state, copies * B, N - begin)
    keep_states = settings.decoder is Decoder.END_TO_END
    states_BC = [*states_XTC[:B, 1:].unbind(1)] if keep_states else []
    states_XC, kept_log_prob_B = states_XTC[:, -1], torch.zeros(B, device=device)
    uniforms_BN = in_double(draw_uniforms(seeds, N), device)
    any_kept_N, all_sound = given.keep_GN.any(dim=0).tolist(), torch.ones((), device=device).bool()
    for k in range(begin, N):
        logits_XK = generator.image_logits(states_XC).float()
        all_sound &= is_sound(logits_XK)
        if any_kept_N[k]:
            log_probs_B = -F.cross_entropy(logits_XK[:B], image_ids_BN[:, k], reduction="none")
            kept_log_prob_B += log_probs_B * keep_BN[:, k]
        drawn_B = draw(
            guide(logits_XK, guidance_at(settings, k, N)) if copies > 1 else logits_XK,
            uniforms_BN[:, k],
            settings,
        )
        image_ids_BN[:, k] = torch.where(keep_BN[:, k], image_ids_BN[:, k], drawn_B)
        if watch:
            watch(image_ids_BN[:, : k + 1])
        if k + 1 < N or keep_states:
            inputs_X = image_ids_BN[:, k].repeat(copies)
            state, states_XC = decode_step(generator, state, inputs_X)
        if keep_states:
            states_BC.append(states_XC[:B])
    assert bool(all_sound.cpu()), "the model's logits are not finite"
    return Drawn(
        image_ids_BN,
        torch.stack(states_BC, dim=1) if keep_states else None,
        kept_log_prob_B if kept is not None else None,
    )


def _read_prompts(
    generator: Generator, texts: Sequence[Sequence[int]], first_XN: Tensor, candidates: int
) -> tuple[DecodeState, Tensor]:
    """Read prompts, [start] and the first cells; return the states from [start] on, of all candidates."""
    text_XM, valid_XM = pad_texts(texts)
    text_XM = moved(text_XM, first_XN.device)
    start_X1 = text_XM.new_full((len(texts), 1), TextTokenizer.boi_id)
    grid, M = generator.config.grid, text_XM.shape[1]
    state, states_XTC = prefill(
        generator,
        text_to_image_layout(M, grid),
        torch.cat([text_XM, start_X1, first_XN], dim=1),
        F.pad(valid_XM, (0, 1 + grid.num_cells), value=True),
        candidates,
    )
    return state, states_XTC[:, M:].repeat_interleave(candidates, dim=0)


def guide(logits_XK: Tensor, strength: float) -> Tensor:
    """Return the guided logits_BK of the rows of prompts, with those of null prompts below them."""
    conditional_BK, null_BK = logits_XK.chunk(2)
    return null_BK + strength * (conditional_BK - null_BK)


def guidance_at(settings: SamplingConfig, k: int, num_cells: int) -> float:
    """Return the strength of guidance at cell k; a schedule goes from or to 1 in a straight line."""
    share = {
        GuidanceSchedule.CONSTANT: 1.0,
        GuidanceSchedule.RISING: (k + 1) / num_cells,
        GuidanceSchedule.FALLING: 1 - k / num_cells,
    }[settings.guidance_schedule]
    return 1 + share * (settings.guidance - 1)
