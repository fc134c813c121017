"""The terms of a tokenizer's loss that are more than a line.

Pixel likelihood of the dVAE, the adversarial terms of the VQGAN, and the weight that balances them.

Shape letters: B batch, Y X pixels, P positions of the discriminator's map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The logit of a pixel must be finite: DALL-E maps [0, 1] to [0.1, 0.9] first.
_MARGIN = 0.1


def to_unit_interval(pixels_B3YX: Tensor) -> Tensor:
    """Pixels in [-1, 1] to (0, 1), away from its ends."""
    return (1 - 2 * _MARGIN) * (pixels_B3YX + 1) / 2 + _MARGIN


def from_unit_interval(values_B3YX: Tensor) -> Tensor:
    """Undo `to_unit_interval`; what lies beyond the margins falls outside of [-1, 1]."""
    return (values_B3YX - _MARGIN) / (1 - 2 * _MARGIN) * 2 - 1


def logit_laplace_loss(raw_B6YX: Tensor, pixels_B3YX: Tensor) -> Tensor:
    """Return the mean negative log likelihood of pixel values, in nats (DALL-E, appendix A.3).

    Density of x in (0, 1): exp(-|logit(x) - mu| / b) / (2 b x (1 - x)).

    Args:
        raw_B6YX: mu of the three channels, then ln b of them.
    """
    mu, ln_b = raw_B6YX.float().chunk(2, dim=1)
    x = to_unit_interval(pixels_B3YX.float())
    log_density = -(x.logit() - mu).abs() * (-ln_b).exp() - ln_b - (2 * x * (1 - x)).log()
    return -log_density.mean()


def generator_adversarial_loss(judged_BP: Tensor) -> Tensor:
    """Return what the decoder minimises: minus the mean score of its pictures."""
    return -judged_BP.mean()


def discriminator_hinge_loss(real_BP: Tensor, made_BP: Tensor) -> Tensor:
    """Return what the discriminator minimises: scores over 1 for real pictures, under -1 for made."""
    return 0.5 * (F.relu(1 - real_BP).mean() + F.relu(1 + made_BP).mean())


def r1_penalty(real_BP: Tensor, pixels_B3YX: Tensor) -> Tensor:
    """Return half the squared gradient of real pictures' scores (R1: arXiv 1801.04406, eq. 9).

    Per patch: |d sum of scores / d pixels|^2 / P, so that its size is that of one patch's slope and does
    not shrink as pictures grow. The result can be differentiated in its turn.

    Args:
        real_BP: the discriminator's scores of `pixels_B3YX`, which require a gradient.
    """
    (slope_B3YX,) = torch.autograd.grad(real_BP.sum(), pixels_B3YX, create_graph=True)
    return 0.5 * slope_B3YX.square().sum((1, 2, 3)).mean() / real_BP.shape[1]


def pulls(reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor) -> Tensor:
    """Return both losses' gradients at the weight of the decoder's last convolution, one after the other.

    They add up: of a batch in shares they are the sum of its shares'.
    """
    return torch.stack(
        [
            torch.autograd.grad(loss, last_layer, retain_graph=True)[0]
            for loss in (reconstruction_loss, adversarial_loss)
        ]
    )


def adaptive_weight(pulls: Tensor, limit: float = 1e4) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight at which both losses pull equally at the last layer (VQGAN, eq. 7).

    lambda = |d rec / d last| / (|d adv / d last| + 1e-4), at most `limit` (VQGAN: 1e4), without gradient.

    Args:
        pulls: of the whole batch.

    Returns:
        lambda, and the two norms.
    """
    reconstruction_norm, adversarial_norm = pulls[0].norm(), pulls[1].norm()
    weight = (reconstruction_norm / (adversarial_norm + 1e-4)).clamp(0.0, limit)
    return weight, reconstruction_norm, adversarial_norm
