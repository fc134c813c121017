"""The discrete VAE of DALL-E (arXiv 2102.12092, section 2.1 and appendix A): the paper's ablation.

Encoder and decoder are stacks of bottleneck residual blocks without norms; the encoder ends in a score
for every code, the decoder begins at a mean of codes and ends in location and log scale of a
logit-Laplace distribution for every pixel value. Tokens are the likeliest codes.

Shape letters: B batch, C channels, D code dimension, H W cells of the grid, K codes, Y X pixels.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from vilg.config import check_counts, require
from vilg.tokenizer.losses import from_unit_interval
from vilg.tokenizer.quantizers import GumbelQuantizer, Quantizer


@dataclass(frozen=True, kw_only=True)
class DVAEConfig:
    """Shape of a dVAE; the defaults are DALL-E's f8-8192 at 256x256.

    Attributes:
        image_size: side of the pictures in pixels.
        num_codes: codes that a token chooses among.
        kind: which network these settings are of.
        channels: width of the first group of the encoder and the last of the decoder.
        channel_multipliers: width of each group over `channels`; between groups the side halves.
        num_blocks: residual blocks a group.
        code_dim: width of the decoder's first layer, which is the codebook.
    """

    image_size: int = 256
    channels: int = 256
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    num_blocks: int = 2
    num_codes: int = 8192
    code_dim: int = 128
    kind: str = "dvae"

    def __post_init__(self) -> None:
        require(self.kind == "dvae", "kind must be dvae for these settings")
        check_counts(self, num_blocks=100, num_codes=2**16, code_dim=2**16)
        check_counts(self, channel_multipliers=2**16, channels=2**16, image_size=2**13)
        factor = 2 ** (len(self.channel_multipliers) - 1)
        require(
            self.image_size >= factor and self.image_size % factor == 0,
            f"image_size must be a multiple of {factor}, which these levels reduce it by",
        )
        require(
            all(width >= 4 and width % 4 == 0 for width in self.widths),
            f"every width must be a multiple of 4, the bottleneck: {self.widths}",
        )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def grid_size(self) -> int:
        """Cells along one side of the token grid."""
        return self.image_size // 2 ** (len(self.channel_multipliers) - 1)

    @property
    def residual_scale(self) -> float:
        """1 / (number of blocks)^2: keeps the variance at depth without norms."""
        return 1 / (len(self.channel_multipliers) * self.num_blocks) ** 2


class BottleneckBlock(nn.Module):
    """Four convolutions at a quarter of the width, added to the input at a small scale.

    Args:
        kernels: sides of the four kernels; the encoder's block ends with 1x1, the decoder's begins so.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernels: tuple[int, ...], residual_scale: float
    ):
        super().__init__()
        self.residual_scale = residual_scale
        hidden = out_channels // 4
        widths = (in_channels, *[hidden] * (len(kernels) - 1), out_channels)
        layers: list[nn.Module] = []
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel, padding=(kernel - 1) // 2)
            layers += [nn.ReLU(), conv]
        self.layers = nn.Sequential(*layers)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.shortcut(x_BCHW) + self.residual_scale * self.layers(x_BCHW)


def build_encoder(config: DVAEConfig) -> nn.Sequential:
    """Pixels in [-1, 1] to logits_BKHW."""
    layers: list[tuple[str, nn.Module]] = [("conv_in", nn.Conv2d(3, config.channels, 7, padding=3))]
    previous = config.channels
    for level, width in enumerate(config.widths):
        if level > 0:
            layers.append((f"level{level}_down", nn.MaxPool2d(2)))
        for i in range(config.num_blocks):
            block = BottleneckBlock(previous, width, (3, 3, 3, 1), config.residual_scale)
            layers.append((f"level{level}_block{i}", block))
            previous = width
    layers += [("relu_out", nn.ReLU()), ("to_logits", nn.Conv2d(previous, config.num_codes, 1))]
    return nn.Sequential(OrderedDict(layers))


def build_decoder(config: DVAEConfig) -> nn.Sequential:
    """Codes to 3 locations and 3 log scales a pixel; the codes stand for DALL-E's first 1x1 layer."""
    layers: list[tuple[str, nn.Module]] = []
    previous = config.code_dim
    for level in reversed(range(len(config.widths))):
        width = config.widths[level]
        for i in range(config.num_blocks):
            block = BottleneckBlock(previous, width, (1, 3, 3, 3), config.residual_scale)
            layers.append((f"level{level}_block{i}", block))
            previous = width
        if level > 0:
            layers.append((f"level{level}_up", nn.Upsample(scale_factor=2.0, mode="nearest")))
    layers += [("relu_out", nn.ReLU()), ("conv_out", nn.Conv2d(previous, 6, 1))]
    return nn.Sequential(OrderedDict(layers))


def build(config: DVAEConfig) -> tuple[nn.Module, Quantizer, nn.Module]:
    """Return encoder, codes and decoder with initial weights."""
    encoder = build_encoder(config)
    quantizer = GumbelQuantizer(config.num_codes, config.code_dim, in_dim=None)
    return encoder, quantizer, build_decoder(config)


def to_image(raw_B6YX: Tensor) -> Tensor:
    """Return the pixels at the distribution's location."""
    return from_unit_interval(raw_B6YX[:, :3].sigmoid())
