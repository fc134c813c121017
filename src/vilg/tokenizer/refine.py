"""Better tokens of a picture, by looking at what they decode to.

An encoder chooses every token at one glance, and never sees what the decoder makes of them together. Here
they are searched: vectors begin at the encoder's and follow the gradient of the difference between the
picture and its reconstruction, which passes the decoder, and the nearest codes straight through
(VQ-VAE, arXiv 1711.00937, section 3.2). Codes, decoder and fingerprint stay what they are: refined tokens are
tokens like any others. What that gains and costs: docs/lab/decisions/0015.

Shape letters: B batch, D code dimension, H W cells of the grid, Y X pixels.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from vilg.errors import SettingError
from vilg.tokenizer.codebooks import cosine_schedule
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.perceptual import (
    LITE0,
    LITE0_POOLED_SIDE,
    PerceptualLoss,
    lite0_hash,
    lite0_loss,
)
from vilg.tokenizer.quantizers import VectorQuantizer, without_autocast

# Adam's first step, over the root mean square of a code's components. It falls to 0 along half a cosine: at a
# constant rate codes flip to and fro to the end, and as many steps gain less (docs/lab/log.md).
_RATE = 0.06
_PERCEPTUAL = 1.0  # beside the absolute and the squared error of pixels, which have 1 each

Encoder = Callable[[Tensor], Tensor]  # pixels_B3YX to ids_BHW


@torch.enable_grad()
def refine(
    tokenizer: ImageTokenizer,
    pixels_B3YX: Tensor,
    perceptual: PerceptualLoss,
    num_steps: int = 60,
    *,
    bf16: bool = False,
) -> Tensor:
    """Return ids_BHW that decode to nearer pictures than the encoder's do, by the loss of training.

    Every picture's tokens are the best of all steps, the encoder's own among them, by that loss of the clamped
    reconstruction as it is computed here. Where codes are nearly as good as each other, rounding chooses: another
    processor, number of threads or size of the batch may give other tokens, as good.

    Args:
        pixels_B3YX: in [-1, 1]; not of inference mode, which allows no gradients.
        perceptual: which differences count besides those of pixels.
        num_steps: gradients to follow; 0 returns the encoder's tokens.
        bf16: decoder and perceptual network compute in bf16, and so what is nearer.

    Raises:
        SettingError: a tokenizer without nearest codes.
    """
    assert num_steps >= 0
    quantizer, kind = _nearest_codes(tokenizer), pixels_B3YX.device.type

    def in_precision() -> AbstractContextManager[object]:
        return torch.autocast(kind, torch.bfloat16) if bf16 else without_autocast(kind)

    with in_precision():
        real_maps = perceptual.maps(pixels_B3YX)
    with torch.no_grad(), without_autocast(kind):  # as `encode` does
        z_BDHW = quantizer.normalise(tokenizer.encoder(pixels_B3YX), dim=1)
    best_BHW = quantizer.ids(z_BDHW)
    least_B = torch.full((len(best_BHW),), math.inf, device=best_BHW.device)
    z_BDHW.requires_grad_()
    rate = _RATE * quantizer.codebook_KD.square().mean().sqrt().cpu().item()
    optimizer = torch.optim.Adam([z_BDHW], lr=rate)
    for step in range(num_steps + 1):
        codes_BDHW, ids_BHW, _ = quantizer(z_BDHW)
        with in_precision():
            made_B3YX = tokenizer.decode_codes(codes_BDHW).clamp(-1, 1)
            distance_B = perceptual.distance(made_B3YX, real_maps)
        error_B3YX = made_B3YX.float() - pixels_B3YX
        loss_B = (error_B3YX.abs() + error_B3YX.square()).mean(dim=(1, 2, 3))
        loss_B = loss_B + _PERCEPTUAL * distance_B
        better_B = loss_B.detach() < least_B
        least_B = torch.where(better_B, loss_B.detach(), least_B)
        best_BHW = torch.where(better_B[:, None, None], ids_BHW, best_BHW)
        if step < num_steps:
            optimizer.param_groups[0]["lr"] = cosine_schedule(rate, 0.0, num_steps, step)
            (z_BDHW.grad,) = torch.autograd.grad(loss_B.sum(), [z_BDHW])
            optimizer.step()
    return best_BHW


def refining_encoder(tokenizer: ImageTokenizer, num_steps: int, *, bf16: bool = False) -> Encoder:
    """Return what makes tokens of pictures: the encoder alone, or `refine` after it, by EfficientNet-Lite0.

    Args:
        num_steps: 0 is the encoder alone, which needs no perceptual network.
        bf16: as `refine` has it.

    Raises:
        SettingError: a tokenizer without nearest codes.
        PerceptualError: the packages of the perceptual network are missing.
    """
    if num_steps == 0:
        return tokenizer.encode
    _nearest_codes(tokenizer)
    perceptual = lite0_loss(pooled=True).to(tokenizer.device)
    return partial(refine, tokenizer, perceptual=perceptual, num_steps=num_steps, bf16=bf16)


def search_id(num_steps: int, *, bf16: bool) -> str:
    """Say by what tokens were refined, beside the tokenizer: for stores of them."""
    computed = "bf16" if bf16 else "fp32"
    network = f"{LITE0} {lite0_hash()} at {LITE0_POOLED_SIDE}"
    return f"{num_steps} steps at {_RATE}, {_PERCEPTUAL} of {network}, {computed}"


def _nearest_codes(tokenizer: ImageTokenizer) -> VectorQuantizer:
    quantizer = tokenizer.quantizer
    if not isinstance(quantizer, VectorQuantizer):
        raise SettingError(
            "only tokens that are nearest codes can be refined, and this tokenizer's are likeliest ones: "
            "measure without --refine, train with tokenizer.refine_steps=0"
        )
    return quantizer
