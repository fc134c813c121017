"""The loss of reconstructed pictures: what trains a tokenizer, and an end-to-end reconstructor alike.

One loss for every kind; the weights of its terms are settings. VQGAN: L1, perceptual and adversarial
terms. dVAE: the likelihood of pixels alone.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilg.config import require
from vilg.parallel import WHOLE, Share, num_processes, sum_over_processes
from vilg.tokenizer.discriminator import DiscriminatorConfig, PatchDiscriminator
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.image_tokenizer import TokenizerConfig
from vilg.tokenizer.losses import (
    adaptive_weight,
    discriminator_hinge_loss,
    generator_adversarial_loss,
    logit_laplace_loss,
    pulls,
    r1_penalty,
)
from vilg.tokenizer.perceptual import PerceptualLoss, lite0_loss, lpips_vgg_loss
from vilg.training.loop import Turn


class PerceptualNet(StrEnum):
    LITE0 = "lite0"
    LITE0_POOLED = "lite0_pooled"
    LPIPS_VGG = "lpips_vgg"


@dataclass(frozen=True, kw_only=True)
class PictureLossConfig:
    """Weights of the loss terms, and what the adversarial one needs.

    Attributes:
        l1, l2: absolute and squared pixel error (VQGAN uses L1; paper eq. 1 squares).
        logit_laplace: negative log likelihood of pixel values, in nats a value; for the dVAE.
        vgg_weights, lpips_weights: files of LPIPS's two networks; nothing else reads them.
        perceptual: difference of feature maps; 0 loads no network.
        perceptual_net: EfficientNet-Lite0, without or with its pooled features (what a picture is, beside
            what it looks like; small pictures are then enlarged to 224, not 128, at 2.4 times the cost), or LPIPS with VGG16 from `vgg_weights` and `lpips_weights`.
        adversarial: on top of the adaptive weight (VQGAN: 0.8); 0 builds no discriminator.
        adaptive_weight_limit: largest adaptive weight (VQGAN: 1e4). A discriminator that has learnt nothing
            yet has a slope near 0, and a large weight makes noise of it that is as strong as the pixels.
        adversarial_from: step at which the discriminator and its term begin (VQGAN: after an epoch
            or more).
        r1_penalty: weight of what the discriminator pays for its slope at real pictures, which keeps
            it from winning on a small set; 0 leaves it out, as VQGAN does.
    """

    l1: float = 1.0
    l2: float = 1.0
    logit_laplace: float = 0.0
    perceptual: float = 0.0
    perceptual_net: PerceptualNet = PerceptualNet.LITE0
    vgg_weights: Path | None = None
    lpips_weights: Path | None = None
    adversarial: float = 0.0
    adaptive_weight_limit: float = 1e4
    adversarial_from: int = 0
    r1_penalty: float = 0.0
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    def __post_init__(self) -> None:
        weights = ("l1", "l2", "logit_laplace", "perceptual", "adversarial", "r1_penalty")
        for name in (*weights, "adaptive_weight_limit", "adversarial_from"):
            require(getattr(self, name) >= 0, f"{name} must be 0 or more")
        require(
            self.adversarial > 0 or self.r1_penalty == 0,
            "r1_penalty is the discriminator's, and adversarial=0 builds none",
        )
        if self.perceptual_net is PerceptualNet.LPIPS_VGG:
            require(
                self.vgg_weights is not None and self.lpips_weights is not None,
                "lpips_vgg needs the files vgg_weights and lpips_weights",
            )

    def perceptual_loss(self) -> PerceptualLoss | None:
        """Load the network that the settings ask for."""
        if self.perceptual == 0:
            return None
        if self.perceptual_net is not PerceptualNet.LPIPS_VGG:
            return lite0_loss(pooled=self.perceptual_net is PerceptualNet.LITE0_POOLED)
        assert self.vgg_weights is not None and self.lpips_weights is not None
        return lpips_vgg_loss(self.vgg_weights, self.lpips_weights)


def check_fits(loss: PictureLossConfig, tokenizer: TokenizerConfig) -> None:
    """Refuse a loss that the decoder's output is not made for.

    Raises:
        SettingError: a likelihood for a VQGAN, or none for a dVAE; a discriminator for a dVAE, whose
            last layer holds widths too, which that term does not reach and could not be balanced by.
    """
    require(
        (loss.logit_laplace > 0) == isinstance(tokenizer, DVAEConfig),
        "a dvae learns by loss.logit_laplace and nothing else does: set it above 0 for a dvae and to 0 "
        "for a vqgan",
    )
    require(
        loss.adversarial == 0 or not isinstance(tokenizer, DVAEConfig),
        "a dvae has no adversarial term: set loss.adversarial=0",
    )


def check_begins(loss: PictureLossConfig, num_steps: int) -> None:
    """Refuse a discriminator that would never be used.

    Raises:
        SettingError: its first step comes after the run's last.
    """
    require(
        loss.adversarial == 0 or loss.adversarial_from < num_steps,
        f"loss.adversarial_from {loss.adversarial_from} is after the last step: set it below "
        f"{num_steps}, or loss.adversarial=0",
    )


def discriminator_alarm(values: dict[str, float]) -> str | None:
    """Return a line for people when the discriminator has won: what it says no longer teaches.

    The hinge asks for scores 2 apart; twice that is more than it has any use for.
    """
    if "discriminator_scores_real" not in values:
        return None
    apart = values["discriminator_scores_real"] - values["discriminator_scores_made"]
    if apart <= 4:
        return None
    return (
        f"discriminator alarm: real and made pictures score {apart:.1f} apart; raise loss.r1_penalty, or "
        "lower discriminator_optim.peak_lr or loss.discriminator.channels"
    )


# A decoder's output, the pixels_B3YX it stands for, and those that were to be made.
Made = tuple[Tensor, Tensor, Tensor]


class PictureLoss:
    """The loss of the settings, with the networks that it needs.

    Losses and values of a share of a batch are its part of the batch's means: shares add up.

    Attributes:
        discriminator: learns in a turn of its own, after the reconstructor's; None without the
            adversarial term.

    Raises:
        PerceptualError: the perceptual network cannot be loaded.
    """

    def __init__(self, config: PictureLossConfig):
        self.config = config
        self.discriminator = (
            PatchDiscriminator(config.discriminator) if config.adversarial > 0 else None
        )
        self.perceptual = config.perceptual_loss()
        # What a step's first turn leaves to its second, share by share: real pixels, and those made of them.
        self._seen: dict[Share, tuple[Tensor, Tensor]] = {}
        # The adaptive weight of a step in several micro-batches, and the norms behind it.
        self._weighed: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None

    @property
    def turns(self) -> list[Turn]:
        """What a step updates after the decoder: the discriminator, if there is one."""
        if self.discriminator is None:
            return []
        begin = self.config.adversarial_from
        return [Turn("discriminator", self.discriminator, [self.discriminator_loss], begin)]

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        for network in (self.discriminator, self.perceptual):
            if network is not None:
                network.to(device)

    def weigh(self, step: int, parts: Iterable[Made], decoder: nn.Module) -> None:
        """Find a step's adaptive weight, where no micro-batch alone can: each is looked at once more.

        Args:
            parts: of every micro-batch of this process; made one after the other, not all at once.
        """
        if not self._is_adversarial(step):
            return
        total, num_parts = torch.zeros(()), 0
        for raw, made, pixels in parts:
            reconstruction, _ = self._reconstruction(raw, made, pixels)
            pull = pulls(reconstruction, self._adversarial(made), _last_layer(decoder))
            total, num_parts = total.to(pull.device) + pull, num_parts + 1
        self._weighed = (step, self._weight(total / (num_parts * num_processes())))

    def __call__(
        self, step: int, made_of: Made, decoder: nn.Module, share: Share = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step's pictures and its parts.

        Args:
            decoder: whose last convolution is where the adversarial term is balanced.
        """
        raw, made, pixels = made_of
        self._seen[share] = (pixels, made.detach())
        total, values = self._reconstruction(raw, made, pixels)
        if self._is_adversarial(step):
            adversarial = self._adversarial(made)
            if self._weighed is not None and self._weighed[0] == step:
                weight, *norms = self._weighed[1]
            else:
                pull = pulls(total, adversarial, _last_layer(decoder))
                weight, *norms = self._weight(pull / share.of)
            values |= {
                "adversarial": adversarial.detach(),
                "adaptive_weight": weight,
                "reconstruction_grad": norms[0],
                "adversarial_grad": norms[1],
            }
            total = total + self.config.adversarial * weight * adversarial
        return total / share.of, {name: value / share.of for name, value in values.items()}

    def _reconstruction(
        self, raw: Tensor, made: Tensor, pixels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        l1, l2_B = F.l1_loss(made, pixels), (made - pixels).square().mean((1, 2, 3))
        total = config.l1 * l1 + config.l2 * l2_B.mean()
        # Pixels span 2, so the peak signal is 2 squared. The mean over pictures, as evaluation has it.
        psnr = 10 * torch.log10(4 / l2_B.detach().clamp_min(1e-10)).mean()
        values = {"l1": l1.detach(), "l2": l2_B.detach().mean(), "psnr": psnr}
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

    def _adversarial(self, made: Tensor) -> Tensor:
        assert self.discriminator is not None
        with _frozen(self.discriminator):
            return generator_adversarial_loss(self.discriminator(made).float())

    def _weight(self, pulls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return adaptive_weight(sum_over_processes(pulls), self.config.adaptive_weight_limit)

    def discriminator_loss(
        self, step: int, share: Share = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """Return what the discriminator minimises on the pictures of the step's first turn."""
        if not self._is_adversarial(step):
            return None
        assert self.discriminator is not None
        pixels_B3YX, made_B3YX = self._seen[share]
        penalised = self.config.r1_penalty > 0
        pixels_B3YX = pixels_B3YX.detach().requires_grad_(penalised)
        real_BP = self.discriminator(pixels_B3YX).float()
        made_BP = self.discriminator(made_B3YX).float()
        total = discriminator_hinge_loss(real_BP, made_BP)
        values = {"scores_real": real_BP.detach().mean(), "scores_made": made_BP.detach().mean()}
        if penalised:
            r1 = r1_penalty(real_BP, pixels_B3YX)
            total, values["r1"] = total + self.config.r1_penalty * r1, r1.detach()
        return total / share.of, {name: value / share.of for name, value in values.items()}


def _last_layer(decoder: nn.Module) -> Tensor:
    weight = decoder.get_submodule("conv_out").weight
    assert isinstance(weight, Tensor)
    return weight


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass a module and not reach its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
