"""Texts of images, and answers to questions about them: the likeliest token each time, drawn ones, or the best of a beam.

Shape letters: G groups (images), B texts (G times candidates, group by group), M text tokens, N image
tokens, Q question tokens, T positions, C width, V vocabulary, W beam.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.device import in_double, moved
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator, image_to_text_layout, pad_texts
from vilg.sampling.decode import DecodeState, decode_step, prefill, recorded
from vilg.sampling.noise import draw, draw_uniforms, is_sound
from vilg.text import TextTokenizer

GREEDY = SamplingConfig(temperature=0.0)
USUAL_BEAM = 4  # texts that are looked for at a time, where several are wanted
WIDEST_BEAM = 256  # its caches are copied at every step


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
    questions: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Write texts of images, without language and end tokens.

    Args:
        words: how they are drawn.
        foreign_V: True on tokens that must not be written (`TextTokenizer.foreign_ids`); foreign_BV for
            texts in several languages.
        questions: one an image, which the texts answer; None describes.
        seeds: as many for every image, those of the first image first.
        max_length: tokens after which a text is cut off; None, and at most, the longest text that the
            model was trained on.
    """
    B, length = len(seeds), _length(generator, max_length)
    state, states_BC = _read_images(
        generator, image_ids_GN, language_ids, length, B // len(image_ids_GN), questions
    )
    state, device = recorded(generator, state, B, length), generator.device
    hidden_V = _hidden(generator, foreign_V)
    uniforms_BM = in_double(draw_uniforms(seeds, length), device)
    written_BM = torch.full((B, length), TextTokenizer.eos_id, device=device)
    ended_B, all_sound = (
        torch.full(shape, x, device=device) for shape, x in (((B,), False), ((), True))
    )
    for k in range(length):
        logits_BV = generator.text_logits(states_BC).float().masked_fill(hidden_V, -torch.inf)
        all_sound &= is_sound(logits_BV)
        ids_B = draw(logits_BV, uniforms_BM[:, k], words)
        written_BM[:, k] = torch.where(ended_B, TextTokenizer.eos_id, ids_B)
        ended_B |= ids_B == TextTokenizer.eos_id
        if k + 1 == length or bool(ended_B.all().cpu()):
            break
        state, states_BC = decode_step(generator, state, ids_B)
    assert bool(all_sound.cpu()), "the model's logits are not finite"
    return [_until_end(row) for row in written_BM.cpu().tolist()]


@torch.inference_mode()
def search_text(
    generator: Generator,
    image_ids_N: Tensor,
    language_id: int,
    beam: int,
    *,
    max_length: int | None = None,
    foreign_V: Tensor | None = None,
    question: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the texts that a beam finds for one image, likeliest first, without language and end tokens.

    A text's likelihood is the mean log P(t_k | z, t_<k) of its tokens, the end token among them: a sum
    would prefer short texts. Every beginning is extended by every token and the likeliest `beam` go on;
    those among them that end are put aside, until `beam` texts have ended. A text that is cut off at the
    longest length counts as it stands.

    Args:
        question: which the texts answer; None describes.
    """
    length, device = _length(generator, max_length), generator.device
    questions = None if question is None else [question]
    state, states_WC = _read_images(
        generator, image_ids_N[None], [language_id], length, beam, questions
    )
    hidden_V = _hidden(generator, foreign_V)
    written: list[list[int]] = [[]] * beam
    # The first step has one beginning, not `beam` equal ones.
    log_probs = [0.0] + [-math.inf] * (beam - 1)
    ended: list[tuple[float, list[int]]] = []
    for k in range(length):
        log_prob_W1 = moved(torch.tensor(log_probs, dtype=torch.float32), device)[:, None]
        log_probs_WV = generator.text_logits(states_WC).float().log_softmax(dim=-1)
        log_probs_WV = log_prob_W1 + log_probs_WV.masked_fill(hidden_V, -torch.inf)
        W, V = log_probs_WV.shape
        best = log_probs_WV.flatten().topk(min(2 * beam, W * V))
        values, places = best.values.cpu().tolist(), best.indices.cpu().tolist()
        found = [(value, *divmod(place, V)) for value, place in zip(values, places, strict=True)]
        ended += [
            (value / (k + 1), written[parent])
            for value, parent, token in found[:beam]
            if token == TextTokenizer.eos_id and value > -math.inf
        ]
        # Twice the beam was taken, and each beginning ends once at most: enough of them go on.
        going_on = [one for one in found if one[2] != TextTokenizer.eos_id][:beam]
        log_probs = [value for value, _, _ in going_on]
        written = [[*written[parent], token] for _, parent, token in going_on]
        if len(ended) >= beam or k + 1 == length:
            break
        parent_W, token_W = (
            moved(torch.tensor(column), device) for column in list(zip(*going_on, strict=True))[1:]
        )
        state, states_WC = decode_step(generator, state.taken(parent_W), token_W)
    if len(ended) < beam:
        ended += [
            (value / len(text), text)
            for value, text in zip(log_probs, written, strict=True)
            if value > -math.inf
        ]
    ended.sort(key=lambda scored: -scored[0])
    return [text for _, text in ended[:beam]]


def _hidden(generator: Generator, foreign_V: Tensor | None) -> Tensor:
    """Return where the model is what must not be written: the tokens of other languages, or nothing."""
    nothing_V = torch.zeros(generator.config.vocabulary_size, dtype=torch.bool)
    return moved(nothing_V if foreign_V is None else foreign_V, generator.device)


def _length(generator: Generator, max_length: int | None) -> int:
    longest = generator.config.max_text - 1  # in training the end token takes the last place
    return longest if max_length is None else min(max_length, longest)


def _read_images(
    generator: Generator,
    image_ids_GN: Tensor,
    language_ids: Sequence[int],
    length: int,
    candidates: int,
    questions: Sequence[Sequence[int]] | None,
) -> tuple[DecodeState, Tensor]:
    """Read images, questions and language tokens; return the states_BC that say what the first word is."""
    image_ids_GN = moved(image_ids_GN, generator.device)
    language_G = moved(torch.tensor(list(language_ids)), generator.device)
    given, known, Q = [image_ids_GN], [torch.ones(image_ids_GN.shape, dtype=torch.bool)], None
    if questions is not None:
        question_GQ, valid_GQ = pad_texts(questions)
        Q = question_GQ.shape[1]
        given.append(moved(question_GQ, generator.device))
        known.append(valid_GQ)
    length = max(1, length)
    layout = image_to_text_layout(length, generator.config.grid, question_length=Q)
    valid_GT = F.pad(torch.cat(known, dim=1), (0, length), value=True)
    ids_GT = torch.cat([*given, language_G[:, None]], dim=1)
    state, states_GTC = prefill(generator, layout, ids_GT, valid_GT, candidates)
    return state, states_GTC[:, -1].repeat_interleave(candidates, dim=0)


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(TextTokenizer.eos_id)] if TextTokenizer.eos_id in ids else ids
