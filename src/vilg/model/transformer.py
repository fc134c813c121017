"""The transformer: pre-LN blocks that know masks and caches, and nothing of tasks.

Shape letters: B batch, T query positions, S key positions, C width, H heads, D = C / H head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class LayerCache:
    """Keys and values of one layer, allocated once for the whole sequence."""

    k_BHSD: Tensor
    v_BHSD: Tensor

    def write(self, start: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values at positions from `start` on; return all so far."""
        stop = start + k_BHTD.shape[2]
        self.k_BHSD[:, :, start:stop] = k_BHTD
        self.v_BHSD[:, :, start:stop] = v_BHTD
        return self.k_BHSD[:, :, :stop], self.v_BHSD[:, :, :stop]


class Attention(nn.Module):
    """Multi-head self-attention under a boolean mask."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x_BTC: Tensor, see_B1TS: Tensor, start: int = 0, cache: LayerCache | None = None
    ) -> Tensor:
        B, T, C = x_BTC.shape
        qkv = self.qkv(x_BTC).view(B, T, 3, self.num_heads, C // self.num_heads)
        q_BHTD, k_BHSD, v_BHSD = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            k_BHSD, v_BHSD = cache.write(start, k_BHSD, v_BHSD)
        h_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=see_B1TS)
        return self.out(h_BHTD.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention and a feed-forward network of width 4C, each behind its LayerNorm.

    The paper states neither the norm's place nor the activation (docs/paper-fidelity.md); 4C follows
    from its parameter counts (12 L C^2).
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(
        self, x_BTC: Tensor, see_B1TS: Tensor, start: int = 0, cache: LayerCache | None = None
    ) -> Tensor:
        x_BTC = x_BTC + self.attention(self.norm1(x_BTC), see_B1TS, start, cache)
        return x_BTC + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x_BTC))))


class Transformer(nn.Module):
    """A stack of blocks and the last norm; each layer reads under its own mask."""

    def __init__(self, num_layers: int, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.blocks = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x_BTC: Tensor,
        masks: list[Tensor],
        start: int = 0,
        caches: list[LayerCache] | None = None,
    ) -> Tensor:
        """Return the last layer's states, normalised.

        Args:
            masks: one see_B1TS a layer.
            start: position of the first query; more than 0 only with caches.
            caches: one a layer; keys of earlier positions are read from them, new ones are stored.
        """
        for i, block in enumerate(self.blocks):
            x_BTC = block(x_BTC, masks[i], start, caches[i] if caches else None)
        return self.norm(x_BTC)

    def new_caches(self, batch: int, length: int) -> list[LayerCache]:
        """Allocate empty caches for sequences of at most `length` positions."""
        weight = self.norm.weight
        shape = (batch, self.num_heads, length, len(weight) // self.num_heads)
        return [
            LayerCache(
                *(torch.empty(shape, dtype=weight.dtype, device=weight.device) for _ in "kv")
            )
            for _ in self.blocks
        ]
