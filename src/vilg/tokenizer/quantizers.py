"""Nearest-code quantization on the unit sphere, and how its codebook learns.

Codes and encoder outputs are l2-normalised (ViT-VQGAN, arXiv 2110.04627, section 3.2), so that the
nearest code is the one of largest cosine. The codebook follows the encoder by an exponential moving
average (VQ-VAE, arXiv 1711.00937, appendix A.1), not by gradients. `forward` is pure; the update is a
separate, explicit step, which is where several processes would sum their statistics.

Shape letters: B batch, D code dimension, H W grid, K codes, P = B*H*W positions.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilg.randomness import integers


class VectorQuantizer(nn.Module):
    """Replaces each position's vector by its nearest code.

    The codebook is a buffer: gradients pass to the encoder straight through, never to the codes.
    """

    codebook_KD: Tensor

    def __init__(self, num_codes: int, code_dim: int):
        super().__init__()
        self.register_buffer("codebook_KD", F.normalize(torch.randn(num_codes, code_dim), dim=-1))

    def nearest(self, z_PD: Tensor) -> Tensor:
        """Return the id of the nearest code; searched in fp32 whatever the encoder ran in."""
        z_PD = F.normalize(z_PD.float(), dim=-1)
        return (z_PD @ self.codebook_KD.float().T).argmax(dim=-1)

    def lookup(self, ids_BHW: Tensor) -> Tensor:
        """Return the codes of a grid of ids, channels first."""
        return F.embedding(ids_BHW, self.codebook_KD).permute(0, 3, 1, 2)

    def forward(self, z_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize.

        Returns:
            codes_BDHW: the nearest codes, with the gradient of the normalised input.
            ids_BHW: their ids.
            commitment: mean squared distance of the normalised input to its code (third term of
                eq. 1 in the paper; the second, which moves the codes, is the moving average).
        """
        B, D, H, W = z_BDHW.shape
        z_BDHW = F.normalize(z_BDHW, dim=1)
        with torch.no_grad():
            ids_BHW = self.nearest(z_BDHW.permute(0, 2, 3, 1).reshape(-1, D)).view(B, H, W)
        codes_BDHW = self.lookup(ids_BHW)
        commitment = (z_BDHW - codes_BDHW).square().sum(dim=1).mean()
        return z_BDHW + (codes_BDHW - z_BDHW).detach(), ids_BHW, commitment


class CodebookAverages(nn.Module):
    """The moving averages that a codebook follows while it is trained; not part of the model.

    Args:
        decay: share of the past kept at each step.
        restart_below: a code whose average use falls under this share of an even use is dead, and
            restarts at a random vector of the batch.
    """

    counts_K: Tensor
    sums_KD: Tensor

    def __init__(self, quantizer: VectorQuantizer, decay: float, restart_below: float):
        super().__init__()
        K, D = quantizer.codebook_KD.shape
        self.decay, self.restart_below = decay, restart_below
        # As if every code had been used evenly so far: none is dead before it had its chance.
        self.register_buffer("counts_K", torch.full((K,), 1.0 / K))
        self.register_buffer("sums_KD", quantizer.codebook_KD.clone() / K)

    @torch.no_grad()
    def update(
        self, quantizer: VectorQuantizer, z_BDHW: Tensor, ids_BHW: Tensor, seed: int, step: int
    ) -> dict[str, float]:
        """Move the codes towards the vectors that chose them and restart the dead ones.

        Returns:
            usage (share of codes alive in the average), perplexity of the average use (codes) and
            the number of restarts.
        """
        K, D = self.sums_KD.shape
        z_PD = F.normalize(z_BDHW.float(), dim=1).permute(0, 2, 3, 1).reshape(-1, D)
        one_hot_PK = F.one_hot(ids_BHW.reshape(-1), K).to(z_PD.dtype)
        P = z_PD.shape[0]
        self.counts_K.lerp_(one_hot_PK.sum(0) / P, 1 - self.decay)
        self.sums_KD.lerp_(one_hot_PK.T @ z_PD / P, 1 - self.decay)

        dead_K = self.counts_K < self.restart_below / K
        num_dead = int(dead_K.sum())
        if num_dead:
            chosen = integers(seed, "restart", P, step, np.arange(num_dead))
            self.sums_KD[dead_K] = z_PD[torch.from_numpy(chosen)] / K
            self.counts_K[dead_K] = 1.0 / K
        quantizer.codebook_KD.copy_(F.normalize(self.sums_KD, dim=-1))

        share_K = self.counts_K / self.counts_K.sum()
        entropy = -(share_K * share_K.clamp_min(1e-12).log()).sum()
        return {
            "usage": 1 - num_dead / K,
            "perplexity": float(entropy.exp()),
            "restarts": float(num_dead),
        }
