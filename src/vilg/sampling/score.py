"""How likely a picture and a text make each other, and which cells speak for which word.

Shape letters: B batch, W words, M text tokens, N image tokens, T positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.model.generator import (
    Generator,
    image_token_log_probs,
    text_to_image_layout,
)
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


def words(tokens: Sequence[str]) -> list[range]:
    """Return where the words of a text stand: a token and the pieces "##..." that go on with it."""
    starts = [i for i, token in enumerate(tokens) if i == 0 or not token.startswith("##")]
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(tokens)], strict=True)]


@torch.inference_mode()
def word_gains(
    generator: Generator, text: Sequence[int], places: Sequence[range], image_ids_N: Tensor
) -> Tensor:
    """Return gains_WN: log P(z_k | text, z_<k) less the same with one word hidden, in nats.

    A hidden word leaves its place empty, so that the others keep theirs. Positive: the cell is likelier
    for the word, it speaks for it.

    Args:
        places: where each word stands in the text.
    """
    grid, M, N = generator.config.grid, len(text), len(image_ids_N)
    valid_BM = torch.ones(len(places) + 1, M, dtype=torch.bool)  # the whole text stands last
    for row_M, place in zip(valid_BM, places, strict=False):
        row_M[list(place)] = False
    ids_T = torch.cat([torch.tensor([*text, TextTokenizer.boi_id]), image_ids_N])
    layout, valid_BT = text_to_image_layout(M, grid), F.pad(valid_BM, (0, 1 + N), value=True)
    B = len(valid_BT)
    states_BTC = generator(layout, ids_T.expand(B, -1), generator.reads(layout, valid_BT))
    log_probs_BN = image_token_log_probs(
        generator, states_BTC[:, M:], image_ids_N.expand(B, -1).contiguous()
    )
    return log_probs_BN[-1] - log_probs_BN[:-1]
