"""Codes that look alike begin alike: what the tokens of an image tokenizer share is learnt once.

A generator knows a code by its number only, and a few thousand pictures show most of some thousand codes a
few dozen times. While it trains, each row of the image embedding and of the image head is a row of its own
plus a linear map of the code's vector, W = W_own + codebook @ mix. Afterwards the sum is the weight, so
that a finished model knows nothing of it. The paper has neither; docs/decisions/0011.

Shape letters: K codes, D code dimension, C width.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vilg.model.generator import Generator


class SharedByCodes(nn.Module):
    """Adds a linear map of each code's vector to its row; the map begins at zero and so changes nothing.

    Args:
        codebook_KD: the vectors; every dimension is brought to mean 0 and variance 1.
    """

    codebook_KD: Tensor

    def __init__(self, codebook_KD: Tensor, width: int):
        super().__init__()
        codebook_KD = codebook_KD.detach().float()
        scaled_KD = (codebook_KD - codebook_KD.mean(0)) / codebook_KD.std(0).clamp_min(1e-6)
        self.register_buffer("codebook_KD", scaled_KD)
        self.mix_DC = nn.Parameter(torch.zeros(codebook_KD.shape[1], width))

    def forward(self, own_KC: Tensor) -> Tensor:
        return own_KC + self.codebook_KD @ self.mix_DC


def share_codes(generator: Generator, codebook_KD: Tensor) -> None:
    """Let what codes share be learnt once, from now on until `fold_codes`."""
    for part in (generator.image_embedding, generator.image_head):
        parametrize.register_parametrization(
            part, "weight", SharedByCodes(codebook_KD, generator.config.width)
        )


def fold_codes(generator: Generator) -> None:
    """Make the sums plain weights again; nothing that the generator computes changes."""
    for part in (generator.image_embedding, generator.image_head):
        parametrize.remove_parametrizations(part, "weight")
