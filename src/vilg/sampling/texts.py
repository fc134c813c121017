"""Texts of images: the likeliest token each time, drawn ones, or the best of a beam.

Shape letters: G groups (images), B texts (G times candidates, group by group), M text tokens, N image
tokens, T positions, C width, V vocabulary, W beam.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator, image_to_text_layout
from vilg.sampling.decode import DecodeState, decode_step, prefill
from vilg.sampling.noise import draw, draw_uniforms
from vilg.text import TextTokenizer

GREEDY = SamplingConfig(temperature=0.0)


@torch.inference_mode()
def generate_texts(
    generator: Generator,
    image_ids_GN: Tensor,
    language_ids: Sequence[int],
    seeds: Sequence[int],
    words: SamplingConfig = GREEDY,
    *,
    max_length: int | None = None,
    foreign_V: Tensor | None = None,
) -> list[list[int]]:
    """Write texts of images, without language and end tokens.

    Args:
        words: how they are drawn.
        foreign_V: True on tokens that must not be written (`TextTokenizer.foreign_ids`).
        seeds: as many for every image, those of the first image first.
        max_length: tokens after which a text is cut off; None, and at most, the longest text that the
            model was trained on.
    """
    B, length = len(seeds), _length(generator, max_length)
    state, states_BC = _read_images(
        generator, image_ids_GN, language_ids, length, B // len(image_ids_GN)
    )
    device = states_BC.device
    uniforms_BM = draw_uniforms(seeds, length).to(device)
    written_BM = torch.full((B, length), TextTokenizer.eos_id, device=device)
    ended_B = torch.zeros(B, dtype=torch.bool, device=device)
    for k in range(length):
        logits_BV = _native(generator.text_logits(states_BC).float(), foreign_V)
        ids_B = draw(logits_BV, uniforms_BM[:, k], words)
        written_BM[:, k] = torch.where(ended_B, TextTokenizer.eos_id, ids_B)
        ended_B |= ids_B == TextTokenizer.eos_id
        if bool(ended_B.all()) or k + 1 == length:
            break
        state, states_BC = decode_step(generator, state, ids_B)
    return [_until_end(row) for row in written_BM.tolist()]


@torch.inference_mode()
def search_text(
    generator: Generator,
    image_ids_N: Tensor,
    language_id: int,
    beam: int,
    *,
    max_length: int | None = None,
    foreign_V: Tensor | None = None,
) -> list[list[int]]:
    """Return the texts that a beam finds for one image, likeliest first, without language and end tokens.

    A text's likelihood is the mean log P(t_k | z, t_<k) of its tokens, the end token among them: a sum
    would prefer short texts. Every beginning is extended by every token and the likeliest `beam` go on;
    those among them that end are put aside, until `beam` texts have ended. A text that is cut off at the
    longest length counts as it stands.
    """
    length = _length(generator, max_length)
    state, states_WC = _read_images(generator, image_ids_N[None], [language_id], length, beam)
    device = states_WC.device
    written_WM = torch.empty(beam, 0, dtype=torch.long, device=device)
    # The first step has one beginning, not `beam` equal ones.
    log_prob_W = torch.tensor([0.0] + [-torch.inf] * (beam - 1), device=device)
    ended: list[tuple[float, list[int]]] = []
    for k in range(length):
        log_probs_WV = generator.text_logits(states_WC).float().log_softmax(dim=-1)
        log_probs_WV = _native(log_probs_WV, foreign_V)
        V = log_probs_WV.shape[1]
        best = (log_prob_W[:, None] + log_probs_WV).flatten().topk(min(2 * beam, beam * V))
        parent_X, token_X = best.indices // V, best.indices % V
        ends_X = token_X == TextTokenizer.eos_id
        for i in ends_X[:beam].nonzero().flatten().tolist():
            if best.values[i].isfinite():
                text = written_WM[parent_X[i]].tolist()
                ended.append((float(best.values[i]) / (k + 1), text))
        # Twice the beam was taken, and each beginning ends once at most: enough of them go on.
        going_on = (~ends_X).nonzero().flatten()[:beam]
        log_prob_W, parent_W, token_W = (x[going_on] for x in (best.values, parent_X, token_X))
        written_WM = torch.cat([written_WM[parent_W], token_W[:, None]], dim=1)
        if len(ended) >= beam or k + 1 == length:
            break
        state = state.taken(parent_W)
        state, states_WC = decode_step(generator, state, token_W)
    if len(ended) < beam:
        rest = zip((log_prob_W / written_WM.shape[1]).tolist(), written_WM.tolist(), strict=True)
        ended += [(value, text) for value, text in rest if value > -torch.inf]
    ended.sort(key=lambda scored: -scored[0])
    return [text for _, text in ended[:beam]]


def _native(logits_XV: Tensor, foreign_V: Tensor | None) -> Tensor:
    """Return the logits without the tokens of other languages."""
    if foreign_V is None:
        return logits_XV
    return logits_XV.masked_fill(foreign_V.to(logits_XV.device), -torch.inf)


def _length(generator: Generator, max_length: int | None) -> int:
    longest = generator.config.max_text - 1  # in training the end token takes the last place
    return longest if max_length is None else min(max_length, longest)


def _read_images(
    generator: Generator,
    image_ids_GN: Tensor,
    language_ids: Sequence[int],
    length: int,
    candidates: int,
) -> tuple[DecodeState, Tensor]:
    """Read images and language tokens; return the states_BC that say what the first word is."""
    G, N = image_ids_GN.shape
    language_G = torch.tensor(list(language_ids), device=image_ids_GN.device)
    layout = image_to_text_layout(max(1, length), generator.config.grid)
    valid_GT = torch.ones(G, layout.length, dtype=torch.bool, device=image_ids_GN.device)
    ids_GT = torch.cat([image_ids_GN, language_G[:, None]], dim=1)
    state, states_GTC = prefill(generator, layout, ids_GT, valid_GT, candidates)
    return state, states_GTC[:, -1].repeat_interleave(candidates, dim=0)


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(TextTokenizer.eos_id)] if TextTokenizer.eos_id in ids else ids
