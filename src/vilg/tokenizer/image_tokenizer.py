"""The image tokenizer, whatever its networks: what the rest relies on, and the one place that knows all kinds.

Shape letters: B batch, D code dimension, H W cells of the grid, Y X pixels.
"""

import hashlib

import torch
from torch import Tensor, nn

from vilg.config import to_json
from vilg.tokenizer import dvae, vqgan
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.quantizers import Quantizer, without_autocast
from vilg.tokenizer.vqgan import VQGANConfig

TokenizerConfig = VQGANConfig | DVAEConfig


class ImageTokenizer(nn.Module):
    """Pictures to grids of code ids and back: encoder, quantizer and decoder of the settings.

    The decoder's output is raw: `to_image` makes pixels of it, which for a VQGAN changes nothing and
    for a dVAE takes the mean of the distribution that the decoder describes.

    Attributes:
        stored_as: precision of the weights in a model's files. One that was loaded or imported keeps
            that of its files, so that saving it again changes neither pixels nor fingerprint.
    """

    stored_as: torch.dtype = torch.float16
    quantizer: Quantizer

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder, self.quantizer, self.decoder = (
            vqgan.build(config) if isinstance(config, VQGANConfig) else dvae.build(config)
        )
        # CPU convolutions are about twice as fast in this layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        return self.quantizer.codebook_KD.device

    def to_image(self, raw: Tensor) -> Tensor:
        """Return pixels_B3YX of the decoder's output; about [-1, 1], not clamped."""
        return dvae.to_image(raw) if isinstance(self.config, DVAEConfig) else raw

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
        """Identify encoder and codebook as they are stored: token stores and generators are for these only."""
        digest = hashlib.sha256(to_json(self.config).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if not name.startswith("decoder."):
                digest.update(name.encode())
                rounded = tensor.detach().cpu().to(self.stored_as).float()
                digest.update(rounded.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
