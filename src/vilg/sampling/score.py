"""How likely a picture and a text make each other, and which cells speak for which word.

Shape letters: W words, B rows at once, M text tokens, N image tokens, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.device import moved
from vilg.model.generator import (
    Generator,
    image_to_text_log_probs,
    image_token_log_probs,
    text_to_image_layout,
    text_to_image_log_probs,
)
from vilg.sampling.rank import rows_at_once
from vilg.text import TextTokenizer


@dataclass(frozen=True)
class Score:
    """How likely a picture and a text make each other, in nats (log probabilities).

    Attributes:
        image_log_probs: log P(z_k | text, z_<k), one an image token in raster order.
        text_log_probs: log P(t_k | image, t_<k), one a text token, the end token last.
        text_tokens: what those text tokens are.
        unconditional_image_log_probs: log P(z_k | z_<k), the same with the null prompt; the difference
            is what the text says about the picture.
    """

    image_log_probs: list[float]
    text_log_probs: list[float]
    text_tokens: list[str]
    unconditional_image_log_probs: list[float]

    @property
    def image_given_text(self) -> float:
        """Mean log probability of an image token."""
        return sum(self.image_log_probs) / len(self.image_log_probs)

    @property
    def text_given_image(self) -> float:
        """Mean log probability of a text token."""
        return sum(self.text_log_probs) / len(self.text_log_probs)

    @property
    def image_gains(self) -> list[float]:
        """What the text says about each image token: its log probability less that without a text."""
        pairs = zip(self.image_log_probs, self.unconditional_image_log_probs, strict=True)
        return [with_text - without for with_text, without in pairs]

    @property
    def gain(self) -> float:
        """Mean of `image_gains`."""
        return sum(self.image_gains) / len(self.image_gains)


@torch.inference_mode()
def score_pair(
    generator: Generator,
    tokenizer: TextTokenizer,
    image_ids_1N: Tensor,
    text: Sequence[int],
    language_id: int,
) -> Score:
    """Return how likely a picture and a text make each other."""
    both_BN = text_to_image_log_probs(generator, [text, []], image_ids_1N.repeat(2, 1))
    text_1M, _ = image_to_text_log_probs(generator, image_ids_1N, [language_id], [text])
    return Score(
        both_BN[0].cpu().tolist(),
        text_1M[0].cpu().tolist(),
        tokenizer.token_strings([*text, TextTokenizer.eos_id]),
        both_BN[1].cpu().tolist(),
    )


@torch.inference_mode()
def word_gains(
    generator: Generator, tokenizer: TextTokenizer, text: str, image_ids_N: Tensor
) -> list[tuple[str, list[float]]]:
    """Return each word with log P(z_k | text, z_<k) less the same with the word hidden, in nats.

    A hidden word leaves its place empty, so that the others keep theirs. Positive: the cell is likelier
    for the word, it speaks for it.
    """
    ids, places = tokenizer.encode(text), tokenizer.words(text)
    M, N = len(ids), len(image_ids_N)
    valid_WM = torch.ones(len(places) + 1, M, dtype=torch.bool)  # the whole text stands last
    for row_M, place in zip(valid_WM, places, strict=False):
        row_M[list(place)] = False
    valid_WM = moved(valid_WM, image_ids_N.device)
    text_M = moved(torch.tensor([*ids, TextTokenizer.boi_id]), image_ids_N.device)
    ids_T = torch.cat([text_M, image_ids_N])
    layout, rows = text_to_image_layout(M, generator.config.grid), []
    for valid_BM in valid_WM.split(rows_at_once(generator)):
        B, valid_BT = len(valid_BM), F.pad(valid_BM, (0, 1 + N), value=True)
        states_BTC = generator(layout, ids_T.expand(B, -1), generator.layer_reads(layout, valid_BT))
        images_BN = image_ids_N.expand(B, -1).contiguous()
        rows.append(image_token_log_probs(generator, states_BTC[:, M:], images_BN))
    log_probs_WN = torch.cat(rows)
    gains_WN = log_probs_WN[-1] - log_probs_WN[:-1]
    names = [tokenizer.decode(ids[place.start : place.stop]) for place in places]
    return list(zip(names, gains_WN.cpu().tolist(), strict=True))
