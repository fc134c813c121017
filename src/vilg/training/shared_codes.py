"""Codes that look alike are learnt together: what the tokens of an image tokenizer share is learnt once.

A generator knows a code by its number only, and a few thousand pictures show most of some thousand codes a
few dozen times. While it trains, each row of the image embedding and of the image head is a row of its own
plus a linear map of the code's vector, W = W_own + codebook @ mix. Afterwards the sum is the weight, so
that a finished model knows nothing of it. The paper has neither; docs/lab/decisions/0011.

Shape letters: K codes, D code dimension, C width.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vilg.model.generator import Generator
from vilg.tokenizer.quantizers import without_autocast

# Root mean square of a scaled vector's length: a variance of 1 in each of 16 dimensions, as it was tried.
_LENGTH = 4.0


class SharedByCodes(nn.Module):
    """Adds a linear map of each code's vector to its row; the map begins at zero and so changes nothing.

    Args:
        codebook_KD: the vectors; their dimensions are brought to mean 0 and equal variance, and so that a
            step of the optimizer moves a row as far whatever their number.
    """

    codebook_KD: Tensor

    def __init__(self, codebook_KD: Tensor, width: int):
        super().__init__()
        codebook_KD = codebook_KD.detach().float()
        deviation_D = codebook_KD.std(0, correction=0).clamp_min(1e-6)
        scale_D = _LENGTH / codebook_KD.shape[1] ** 0.5 / deviation_D
        self.register_buffer("codebook_KD", (codebook_KD - codebook_KD.mean(0)) * scale_D)
        self.mix_DC = nn.Parameter(torch.zeros(codebook_KD.shape[1], width))

    def forward(self, own_KC: Tensor) -> Tensor:
        with without_autocast(own_KC.device.type):  # what training computes is what is folded
            return own_KC + self.codebook_KD @ self.mix_DC


def _parts(generator: Generator) -> tuple[nn.Module, nn.Module]:
    return generator.image_embedding, generator.image_head


def share_codes(generator: Generator, codebook_KD: Tensor) -> None:
    """Let what codes share be learnt once, from now on until `fold_codes`.

    Args:
        codebook_KD: where the generator is, or will be.
    """
    for part in _parts(generator):
        shared = SharedByCodes(codebook_KD, generator.config.width).to(codebook_KD.device)
        # Unchecked, since a check computes with the weights, which may be on meta.
        parametrize.register_parametrization(part, "weight", shared, unsafe=True)


def fold_codes(generator: Generator) -> None:
    """Make the sums plain weights again; nothing that the generator computes changes."""
    for part in _parts(generator):
        parametrize.remove_parametrizations(part, "weight")
