"""The patch discriminator of the adversarial term (pix2pix, arXiv 1611.07004; VQGAN).

Its published form has BatchNorm; GroupNorm gives a picture the same score whatever its batch is, so
several processes equal one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vilg.config import check_counts, require


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Shape of a patch discriminator; the defaults are VQGAN's.

    Attributes:
        channels: width of the first layer; each strided layer doubles it, up to 8 times.
        num_layers: strided layers.
        norm_groups: groups of every GroupNorm; divides every width.
    """

    channels: int = 64
    num_layers: int = 3
    norm_groups: int = 32

    def __post_init__(self) -> None:
        check_counts(self, channels=2**16, num_layers=16, norm_groups=2**16)
        require(
            2 * self.channels % self.norm_groups == 0,
            f"norm_groups {self.norm_groups} must divide twice the channels, {2 * self.channels}",
        )


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of a picture: high for real, low for made."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, config.channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        previous = config.channels
        for i in range(1, config.num_layers + 1):
            width = config.channels * min(2**i, 8)
            stride = 2 if i < config.num_layers else 1
            layers += [
                nn.Conv2d(previous, width, 4, stride, 1, bias=False),
                nn.GroupNorm(config.norm_groups, width),
                nn.LeakyReLU(0.2),
            ]
            previous = width
        layers.append(nn.Conv2d(previous, 1, 4, 1, 1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels_B3YX: Tensor) -> Tensor:
        """Return scores_BP, one a patch."""
        return self.layers(pixels_B3YX).flatten(1)
