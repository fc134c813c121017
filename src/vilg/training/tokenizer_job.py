"""Training an image tokenizer: reconstruct pictures through the codebook.

One loss for every kind; the weights of its terms are settings. VQGAN: L1, perceptual and adversarial
terms. dVAE: the likelihood of pixels alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vilg.config import ConfigError, require
from vilg.data.order import batch_ids
from vilg.images import contact_sheet, to_pictures, to_pixels
from vilg.parallel import mean_over_processes, own_share
from vilg.randomness import integers, uniforms
from vilg.tokenizer.base import ImageTokenizer
from vilg.tokenizer.build import TokenizerConfig, build_tokenizer
from vilg.tokenizer.codebooks import CodebookConfig, CodebookTraining
from vilg.tokenizer.discriminator import DiscriminatorConfig, PatchDiscriminator
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.losses import (
    adaptive_weight,
    discriminator_hinge_loss,
    generator_adversarial_loss,
    logit_laplace_loss,
)
from vilg.tokenizer.perceptual import PerceptualLoss, lite0_loss, lpips_vgg_loss
from vilg.training.loop import LoopConfig, Turn


class PerceptualNet(StrEnum):
    LITE0 = "lite0"
    LPIPS_VGG = "lpips_vgg"


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """Weights of the loss terms, and what the adversarial one needs.

    Attributes:
        l1, l2: absolute and squared pixel error (VQGAN uses L1; paper eq. 1 squares).
        logit_laplace: negative log likelihood of pixel values, in nats a value; for the dVAE.
        perceptual: difference of feature maps; 0 loads no network.
        perceptual_net: EfficientNet-Lite0, or LPIPS with VGG16 from `vgg_weights` and `lpips_weights`.
        adversarial: on top of the adaptive weight (VQGAN: 0.8); 0 builds no discriminator.
        adversarial_from: step at which the discriminator and its term begin (VQGAN: after an epoch
            or more).
    """

    l1: float = 1.0
    l2: float = 1.0
    logit_laplace: float = 0.0
    perceptual: float = 0.0
    perceptual_net: PerceptualNet = PerceptualNet.LITE0
    vgg_weights: Path | None = None
    lpips_weights: Path | None = None
    adversarial: float = 0.0
    adversarial_from: int = 0
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    def __post_init__(self) -> None:
        if self.perceptual_net is PerceptualNet.LPIPS_VGG:
            require(
                self.vgg_weights is not None and self.lpips_weights is not None,
                "lpips_vgg needs the files vgg_weights and lpips_weights",
            )

    def perceptual_loss(self) -> PerceptualLoss | None:
        """Load the network that the settings ask for."""
        if self.perceptual == 0:
            return None
        if self.perceptual_net is PerceptualNet.LITE0:
            return lite0_loss()
        assert self.vgg_weights is not None and self.lpips_weights is not None
        return lpips_vgg_loss(self.vgg_weights, self.lpips_weights)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pictures are moved about.

    Attributes:
        max_shift: largest random shift in pixels, each way, white at the edge.
        flip: mirror half of them.
        recolour: share whose colour channels are permuted.
    """

    max_shift: int = 4
    flip: bool = True
    recolour: float = 0.0


_CHANNEL_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def augment(
    arrays_BYX3: NDArray[np.uint8],
    seed: int,
    step: int,
    ids: NDArray[np.int64],
    config: AugmentConfig,
) -> NDArray[np.uint8]:
    """Shift each picture on white ground, mirror, recolour; a function of (seed, step, id)."""
    s, size = config.max_shift, arrays_BYX3.shape[1]
    padded = np.pad(arrays_BYX3, ((0, 0), (s, s), (s, s), (0, 0)), constant_values=255)
    down, right = (integers(seed, f"shift-{axis}", 2 * s + 1, step, ids) for axis in "yx")
    mirrored = (uniforms(seed, "mirror", step, ids) < 0.5) & config.flip
    recoloured = uniforms(seed, "recolour", step, ids) < config.recolour
    orders = integers(seed, "channel order", len(_CHANNEL_ORDERS), step, ids)
    out = np.empty_like(arrays_BYX3)
    for i, (y, x) in enumerate(zip(down, right, strict=True)):
        crop = padded[i, y : y + size, x : x + size]
        crop = crop[:, ::-1] if mirrored[i] else crop
        out[i] = crop[..., _CHANNEL_ORDERS[orders[i]]] if recoloured[i] else crop
    return out


@dataclass(frozen=True)
class _Reconstructed:
    """What a step's first turn leaves to its second."""

    pixels_B3YX: Tensor
    made_B3YX: Tensor


class TokenizerJob:
    """The tokenizer, what its codebook learns by, its discriminator, and the pictures.

    Args:
        pictures_NYX3: all training pictures as bytes.
        held_out_BYX3: a few others, only looked at.
        init: a finished tokenizer of the same shape to go on from; its codes count as evenly used.

    Raises:
        ConfigError: loss terms that do not fit the tokenizer.
        PerceptualError: the perceptual network cannot be loaded.
    """

    def __init__(
        self,
        config: TokenizerConfig,
        loss: TokenizerLossConfig,
        codebook: CodebookConfig,
        augmentation: AugmentConfig,
        loop: LoopConfig,
        pictures_NYX3: NDArray[np.uint8],
        held_out_BYX3: NDArray[np.uint8],
        init: ImageTokenizer | None = None,
    ):
        if (loss.logit_laplace > 0) != isinstance(config, DVAEConfig):
            raise ConfigError(
                "a dvae learns by loss.logit_laplace and nothing else does: set it above 0 for a dvae "
                "and to 0 for a vqgan"
            )
        with torch.random.fork_rng():  # the caller's random numbers stay as they were
            torch.manual_seed(loop.seed)
            self.tokenizer = build_tokenizer(config)
            if init is not None:
                self.tokenizer.load_state_dict(init.state_dict())
            self.codebook = CodebookTraining(self.tokenizer.quantizer, codebook, loop.seed)
            self.discriminator = (
                PatchDiscriminator(loss.discriminator) if loss.adversarial > 0 else None
            )
        self.perceptual = loss.perceptual_loss()
        # A codebook that learns by gradients is a weight of the first turn, like the network's.
        learner = nn.ModuleDict({"tokenizer": self.tokenizer, "codebook": self.codebook})
        self.module = nn.ModuleDict({"learner": learner})
        self.turns: Sequence[Turn] = [Turn("", learner, self.loss)]
        if self.discriminator is not None:
            self.module["discriminator"] = self.discriminator
            self.turns = [
                *self.turns,
                Turn("discriminator", self.discriminator, self.discriminator_loss),
            ]
        self.config, self.augmentation, self.loop = loss, augmentation, loop
        self.pictures_NYX3, self.held_out_BYX3 = pictures_NYX3, held_out_BYX3
        self._reconstructed: _Reconstructed | None = None

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what encoder, codes and decoder minimise on the step's batch."""
        batch = batch_ids(self.loop.seed, step, self.loop.batch_size, len(self.pictures_NYX3))
        ids = own_share(batch)
        arrays = augment(self.pictures_NYX3[ids], self.loop.seed, step, ids, self.augmentation)
        pixels = to_pixels(arrays)
        latent_BDHW = self.tokenizer.encoder(pixels)
        quantized = self.codebook(
            self.tokenizer.quantizer, latent_BDHW, step, ids, pixels[0].numel()
        )
        raw = self.tokenizer.decoder(quantized.codes_BDHW).float()
        made = self.tokenizer.to_image(raw)
        self._reconstructed = _Reconstructed(pixels, made.detach())

        reconstruction, values = self._reconstruction_loss(raw, made, pixels)
        total = reconstruction + quantized.loss
        if self._is_adversarial(step):
            term, more = self._adversarial_term(reconstruction, made)
            total, values = total + term, values | more
        return total, values | quantized.values

    def _reconstruction_loss(
        self, raw: Tensor, made: Tensor, pixels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        l1, l2 = F.l1_loss(made, pixels), F.mse_loss(made, pixels)
        total = config.l1 * l1 + config.l2 * l2
        # Pixels span 2, so the peak signal is 2 squared.
        values = {"l1": l1.detach(), "psnr": 10 * torch.log10(4 / l2.detach())}
        if config.logit_laplace > 0:
            nll = logit_laplace_loss(raw, pixels)
            total, values["nll"] = total + config.logit_laplace * nll, nll.detach()
        if self.perceptual is not None:
            perceptual = self.perceptual(made, pixels)
            total = total + config.perceptual * perceptual
            values["perceptual"] = perceptual.detach()
        return total, values

    def _is_adversarial(self, step: int) -> bool:
        return self.discriminator is not None and step >= self.config.adversarial_from

    def _adversarial_term(
        self, reconstruction: Tensor, made: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.discriminator is not None
        adversarial = generator_adversarial_loss(self.discriminator(made).float())
        last_layer = self.tokenizer.decoder.get_submodule("conv_out").weight
        assert isinstance(last_layer, Tensor)
        weight, reconstruction_norm, adversarial_norm = adaptive_weight(
            reconstruction, adversarial, last_layer, mean_over_processes
        )
        return self.config.adversarial * weight * adversarial, {
            "adversarial": adversarial.detach(),
            "adaptive_weight": weight,
            "reconstruction_grad": reconstruction_norm,
            "adversarial_grad": adversarial_norm,
        }

    def discriminator_loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return what the discriminator minimises on the pictures of the step's first turn."""
        if not self._is_adversarial(step):
            return None
        assert self.discriminator is not None and self._reconstructed is not None
        real_BP = self.discriminator(self._reconstructed.pixels_B3YX).float()
        made_BP = self.discriminator(self._reconstructed.made_B3YX).float()
        return discriminator_hinge_loss(real_BP, made_BP), {
            "scores_real": real_BP.detach().mean(),
            "scores_made": made_BP.detach().mean(),
        }

    def after_step(self, step: int) -> dict[str, float]:
        """Let the codebook follow the batch that was just seen."""
        return self.codebook.follow(self.tokenizer.quantizer, step)

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people when the codebook falls out of use."""
        if values["usage"] >= self.codebook.config.alarm_below:
            return None
        num_codes = self.tokenizer.config.num_codes
        return (
            f"codebook alarm: {values['usage']:.0%} of {num_codes} codes in use, perplexity "
            f"{values['perplexity']:.0f}; raise codebook.restart_below, lower codebook.decay or "
            "peak_lr, or take fewer codes"
        )

    def show(self, step: int, folder: Path) -> None:
        """Write held-out pictures over their reconstructions."""
        folder.mkdir(parents=True, exist_ok=True)
        pixels = to_pixels(self.held_out_BYX3)
        decoded = self.tokenizer.decode(self.tokenizer.encode(pixels))
        sheet = contact_sheet([to_pictures(pixels), to_pictures(decoded)], scale=2)
        sheet.save(folder / f"step-{step:08d}.png")
