"""What every image tokenizer can do, whatever its network: the interface that the rest relies on.

Shape letters: B batch, D code dimension, H W cells of the grid, Y X pixels.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vilg.config import to_json
from vilg.tokenizer.quantizers import Quantizer, without_autocast

if TYPE_CHECKING:  # the settings of all kinds, which import this
    from vilg.tokenizer.build import TokenizerConfig


class TokenizerKind(StrEnum):
    VQGAN = "vqgan"
    DVAE = "dvae"


class ImageTokenizer(nn.Module):
    """Pictures to grids of code ids and back: an encoder, a quantizer and a decoder.

    The decoder's output is raw: `to_image` makes pixels of it, which for a VQGAN changes nothing and
    for a dVAE takes the mean of the distribution that the decoder describes.

    Attributes:
        stored_as: precision of the weights in a model's files. One that was loaded or imported keeps
            that of its files, so that saving it again changes neither pixels nor fingerprint.
    """

    stored_as: torch.dtype = torch.float16

    config: TokenizerConfig
    encoder: nn.Module
    quantizer: Quantizer
    decoder: nn.Module

    def to_image(self, raw: Tensor) -> Tensor:
        """Return pixels_B3YX of the decoder's output; about [-1, 1], not clamped."""
        return raw

    @torch.no_grad()
    def encode(self, pixels_B3YX: Tensor) -> Tensor:
        """Return ids_BHW of pictures in [-1, 1].

        Tokens are data: they do not depend on what a training around them computes in.
        """
        with without_autocast(pixels_B3YX.device.type):
            return self.quantizer.ids(self.encoder(pixels_B3YX))

    def decode_codes(self, codes_BDHW: Tensor) -> Tensor:
        """Return pixels_B3YX of vectors in the place of codes, with gradients, not clamped."""
        return self.to_image(self.decoder(codes_BDHW))

    @torch.no_grad()
    def decode(self, ids_BHW: Tensor) -> Tensor:
        """Return pixels_B3YX in [-1, 1], clamped."""
        return self.decode_codes(self.quantizer.lookup(ids_BHW)).clamp(-1, 1)

    def fingerprint(self) -> str:
        """Identify encoder and codebook: token stores and generators are only valid for these."""
        digest = hashlib.sha256(to_json(self.config).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith("decoder."):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
