"""From the encoder's vectors to ids of a codebook, and back.

Two kinds, as data of the model: the nearest code (VQ-VAE, arXiv 1711.00937; on the unit sphere as in
ViT-VQGAN, arXiv 2110.04627, section 3.2) and the likeliest code (Gumbel: DALL-E, arXiv 2102.12092).
Nothing here learns: how a codebook does is in `codebooks.py`, and a finished model has no need of it.

Shape letters: B batch, D code dimension, H W grid, K codes, P = B*H*W positions.
"""

from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import is_autocast_available


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Compute in the tensors' own precision, whatever is around; the meta device knows no autocast."""
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()


class QuantizerKind(StrEnum):
    NEAREST = "nearest"
    GUMBEL = "gumbel"


class VectorQuantizer(nn.Module):
    """Replaces each position's vector by its nearest code.

    The codebook is a buffer: gradients pass to the encoder straight through, never to the codes.

    Args:
        normalised: compare directions only; vectors and codes are l2-normalised, and the nearest code
            is the one of largest cosine.
    """

    codebook_KD: Tensor

    def __init__(self, num_codes: int, code_dim: int, normalised: bool = True):
        super().__init__()
        self.normalised = normalised
        if normalised:
            codebook_KD = F.normalize(torch.randn(num_codes, code_dim), dim=-1)
        else:  # as the published VQGANs begin
            codebook_KD = torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes)
        self.register_buffer("codebook_KD", codebook_KD)

    def normalise(self, z: Tensor, dim: int) -> Tensor:
        """Put vectors on the unit sphere if that is where the codes live."""
        return F.normalize(z, dim=dim) if self.normalised else z

    def nearest(self, z_PD: Tensor) -> Tensor:
        """Return the id of the nearest code; searched in fp32 whatever the encoder ran in."""
        z_PD = self.normalise(z_PD.float(), dim=-1)
        codebook_KD = self.codebook_KD.float()
        with without_autocast(z_PD.device.type):
            scores_PK = z_PD @ codebook_KD.T
        if not self.normalised:  # |z - c|^2 = |z|^2 - 2 (z c - |c|^2 / 2)
            scores_PK = scores_PK - codebook_KD.square().sum(dim=-1) / 2
        return scores_PK.argmax(dim=-1)

    def ids(self, z_BDHW: Tensor) -> Tensor:
        """Return ids_BHW of the encoder's vectors."""
        B, D, H, W = z_BDHW.shape
        return self.nearest(z_BDHW.permute(0, 2, 3, 1).reshape(-1, D)).view(B, H, W)

    def lookup(self, ids_BHW: Tensor) -> Tensor:
        """Return the codes of a grid of ids, channels first."""
        return F.embedding(ids_BHW, self.codebook_KD).permute(0, 3, 1, 2)

    def forward(self, z_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize.

        Returns:
            codes_BDHW: the nearest codes, with the gradient of the (normalised) input.
            ids_BHW: their ids.
            commitment: mean squared distance of the (normalised) input to its code (second term of
                eq. 1 in the paper; the third moves the codes: `codebooks.py`).
        """
        with torch.no_grad():
            ids_BHW = self.ids(z_BDHW)
        z_BDHW = self.normalise(z_BDHW.float(), dim=1)
        codes_BDHW = self.lookup(ids_BHW)
        commitment = (z_BDHW - codes_BDHW).square().sum(dim=1).mean()
        return z_BDHW + (codes_BDHW - z_BDHW).detach(), ids_BHW, commitment


class GumbelQuantizer(nn.Module):
    """Chooses each position's code by a score for every code; tokens are the likeliest, no noise.

    The codebook is a weight: in training the decoder reads a weighted mean of codes, through which
    gradients reach scores and codes alike.

    Args:
        in_dim: width of the encoder's vectors, mapped to K scores by a 1x1 convolution; None where the
            encoder gives the scores itself (the dVAE).
    """

    def __init__(self, num_codes: int, code_dim: int, in_dim: int | None):
        super().__init__()
        self.to_logits = nn.Identity() if in_dim is None else nn.Conv2d(in_dim, num_codes, 1)
        self.codebook_KD = nn.Parameter(torch.randn(num_codes, code_dim))

    def ids(self, z_BDHW: Tensor) -> Tensor:
        """Return ids_BHW of the encoder's vectors; scored and compared in fp32, like `nearest`."""
        with without_autocast(z_BDHW.device.type):
            return self.to_logits(z_BDHW.float()).argmax(dim=1)

    def lookup(self, ids_BHW: Tensor) -> Tensor:
        """Return the codes of a grid of ids, channels first."""
        return F.embedding(ids_BHW, self.codebook_KD).permute(0, 3, 1, 2)


Quantizer = VectorQuantizer | GumbelQuantizer
