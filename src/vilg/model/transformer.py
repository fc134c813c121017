"""The transformer: pre-LN blocks that know nothing of masks, caches and tasks.

What a layer's queries read is a function that comes with the call, one a layer: `Generator.layer_reads` for
whole sequences, `sampling.decode` for cached ones.

Shape letters: B batch, T positions, C width, H heads, D = C / H head width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vilg.model.attend import Read


class HeadNorm(nn.RMSNorm):
    """RMS norm of each head, in the precision of its gain: under autocast too."""

    def forward(self, x_BTHD: Tensor) -> Tensor:
        return super().forward(x_BTHD.to(self.weight.dtype)).to(x_BTHD.dtype)


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        qk_norm: bring queries and keys to length sqrt(D), with a gain a channel, so that scores
            cannot grow without bound (arXiv 2302.05442, section 2; RMS norm in place of layer norm).
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        head_width = width // num_heads
        self.q_norm = HeadNorm(head_width, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(head_width, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x_BTC: Tensor, read: Read) -> Tensor:
        B, T, C = x_BTC.shape
        qkv = self.qkv(x_BTC).view(B, T, 3, self.num_heads, C // self.num_heads)
        q_BTHD, k_BTHD, v_BTHD = qkv.unbind(2)
        h_BTHD = read(self.q_norm(q_BTHD), self.k_norm(k_BTHD), v_BTHD)
        return self.out(h_BTHD.reshape(B, T, C))


class Block(nn.Module):
    """Attention and a feed-forward network of width 4C, each behind its LayerNorm.

    The paper states neither the norm's place nor the activation (docs/paper.md); 4C follows
    from its parameter counts (12 L C^2).

    Attributes:
        recompute: keep only the input for the backward pass, which then computes the rest again: a third more
            work for a tenth of the memory (paper section 4.1, "activation recomputation"). A training sets it; a
            wrapper would rename the parameters.
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.recompute = False
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, qk_norm)
        self.norm2 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor, read: Read) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            # No random numbers are drawn in a block.
            return checkpoint(
                self._computed, x_BTC, read, use_reentrant=False, preserve_rng_state=False
            )
        return self._computed(x_BTC, read)

    def _computed(self, x_BTC: Tensor, read: Read) -> Tensor:
        x_BTC = x_BTC + self.attention(self.norm1(x_BTC), read)
        return x_BTC + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x_BTC))))


class Transformer(nn.Module):
    """A stack of blocks and the last norm."""

    def __init__(self, num_layers: int, width: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads, qk_norm) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BTC: Tensor, reads: Sequence[Read]) -> Tensor:
        """Return the last layer's states, normalised.

        Args:
            reads: what the queries of each layer read.
        """
        for block, read in zip(self.blocks, reads, strict=True):
            x_BTC = block(x_BTC, read)
        return self.norm(x_BTC)
