"""The image tokenizer: a VQGAN (arXiv 2012.09841, table 7; paper section 3.1.1 and eq. 1-2).

Encoder and decoder are stacks of residual blocks with one non-local attention in the middle (but for the
local encoder, and without `middle_attention`); side reduction f = patch * 2 ** (levels - 1). Pixels are in [-1, 1], channels first.

Shape letters: B batch, C channels, D code dimension, H W cells of the grid, Y X pixels.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vilg.config import check_counts, later_key, require
from vilg.tokenizer.quantizers import GumbelQuantizer, Quantizer, QuantizerKind, VectorQuantizer


@dataclass(frozen=True, kw_only=True)
class VQGANConfig:
    """Shape of a VQGAN; the defaults are the paper's f8-8192 at 256x256 (section 4.1).

    Attributes:
        image_size: side of the pictures in pixels.
        channels: width of the first level.
        num_res_blocks: residual blocks a level.
        latent_channels: width of the last level's output.
        num_codes: codes that a token chooses among.
        code_dim: numbers in a code.
        kind: which network these settings are of.
        channel_multipliers: width of each level over `channels`; each further level halves the side.
        attention_resolutions: sides, in cells, at which the residual blocks get attention too.
        norm_groups: groups of every GroupNorm; divides every width.
        quantizer: nearest code, or likeliest (the published f8-8192 model).
        normalised: nearest codes live on the unit sphere.
        patch: side of the square of pixels that is one position of the first level. Over 1, no layer
            works at full resolution, which costs most and sees least (docs/lab/decisions/0007).
        local_encoder: a token depends on its cell and a few pixels around it (`context`) and on nothing
            else, so that a generator finds it where its picture has it (docs/lab/decisions/0010). The
            published networks see the whole picture in every token. Decoders always do.
        middle_attention: attention between the two blocks at the lowest resolution, which aMUSEd's network
            does without. A local encoder has none either way.
    """

    image_size: int = 256
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32,)
    latent_channels: int = 256
    num_codes: int = 8192
    code_dim: int = 256
    norm_groups: int = 32
    quantizer: QuantizerKind = later_key(QuantizerKind.NEAREST)
    normalised: bool = later_key(True)
    patch: int = later_key(1)
    local_encoder: bool = later_key(False)
    middle_attention: bool = later_key(True)
    kind: str = later_key("vqgan")

    def __post_init__(self) -> None:
        require(self.kind == "vqgan", "kind must be vqgan for these settings")
        check_counts(self, channel_multipliers=2**16, channels=2**16, image_size=2**13)
        check_counts(self, num_res_blocks=100, latent_channels=2**16, code_dim=2**16)
        # Token stores keep ids in 16 bits.
        check_counts(self, num_codes=2**16, norm_groups=2**16, patch=2**13)
        require(
            self.image_size >= self.reduction and self.image_size % self.reduction == 0,
            f"image_size must be a multiple of {self.reduction}, which these levels reduce it by",
        )
        require(
            all(width % self.norm_groups == 0 for width in (*self.widths, self.channels)),
            f"norm_groups {self.norm_groups} must divide every width: {self.widths}",
        )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def reduction(self) -> int:
        """Pixels along one side of a cell: the f of the paper."""
        return int(self.patch * 2 ** (len(self.channel_multipliers) - 1))

    @property
    def context(self) -> int:
        """Pixels around a cell that a local encoder's token depends on: those of the 3x3 convolutions."""
        return self.patch * (1 + 2 * self.num_res_blocks)

    @property
    def grid_size(self) -> int:
        """Cells along one side of the token grid."""
        return self.image_size // self.reduction


class ChannelNorm(nn.LayerNorm):
    """Normalises each position over its channels, whatever the rest of the picture is."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


Norm = Callable[[int], nn.Module]  # of so many channels


def _group_norm(config: VQGANConfig) -> Norm:
    return lambda channels: nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Norm, Swish, convolution, twice, with a residual connection."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm, kernel: int = 3):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.norm2 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel, padding=kernel // 2)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.conv1(F.silu(self.norm1(x_BCHW)))
        h_BCHW = self.conv2(F.silu(self.norm2(h_BCHW)))
        return self.shortcut(x_BCHW) + h_BCHW


class AttentionBlock(nn.Module):
    """One-head attention over all cells, with a residual connection (non-local block)."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        qkv = self.qkv(self.norm(x_BCHW)).view(B, 3, C, H * W).transpose(2, 3)
        q, k, v = (part[:, None] for part in qkv.unbind(1))
        h = F.scaled_dot_product_attention(q, k, v)
        return x_BCHW + self.out(h[:, 0].transpose(1, 2).reshape(B, C, H, W))


class Downsample(nn.Conv2d):
    """Halves the side; padded at the right and bottom only, as in the published VQGANs."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Conv2d):
    """Doubles the side by nearest neighbours, then convolves."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


Layers = list[tuple[str, nn.Module]]


def _level(config: VQGANConfig, name: str, widths: tuple[int, ...], resolution: int) -> Layers:
    """Residual blocks from each width to the next, with attention where the settings ask for it."""
    layers: Layers = []
    norm = _group_norm(config)
    for i, (in_channels, out_channels) in enumerate(pairwise(widths)):
        layers.append((f"{name}_block{i}", ResBlock(in_channels, out_channels, norm)))
        if resolution in config.attention_resolutions:
            layers.append((f"{name}_attention{i}", AttentionBlock(out_channels, norm)))
    return layers


def _middle(config: VQGANConfig) -> Layers:
    width, norm = config.widths[-1], _group_norm(config)
    layers: Layers = [("middle_block0", ResBlock(width, width, norm))]
    if config.middle_attention:
        layers.append(("middle_attention", AttentionBlock(width, norm)))
    return [*layers, ("middle_block1", ResBlock(width, width, norm))]


def _sequential(layers: Layers) -> nn.Sequential:
    """Chain layers under their names, which are those of the tensors in a model's files."""
    return nn.Sequential(OrderedDict(layers))


def build_encoder(config: VQGANConfig) -> nn.Sequential:
    """Pixels in [-1, 1] to latent vectors of the code dimension."""
    p = config.patch
    layers: Layers = [
        ("to_patches", nn.PixelUnshuffle(p)),
        ("conv_in", nn.Conv2d(3 * p * p, config.channels, 3, padding=1)),
    ]
    resolution, previous = config.image_size // p, config.channels
    for i, width in enumerate(config.widths):
        if i > 0:
            layers.append((f"level{i}_down", Downsample(previous)))
            resolution //= 2
        widths = (previous, *[width] * config.num_res_blocks)
        layers += _level(config, f"level{i}", widths, resolution)
        previous = width
    layers += _middle(config)
    layers += [
        ("norm_out", _group_norm(config)(previous)),
        ("swish_out", nn.SiLU()),
        ("conv_out", nn.Conv2d(previous, config.latent_channels, 3, padding=1)),
        ("to_code", nn.Conv2d(config.latent_channels, config.code_dim, 1)),
    ]
    return _sequential(layers)


def build_local_encoder(config: VQGANConfig) -> nn.Sequential:
    """The same from each cell's pixels and the `context` around it: 3x3 at the first level, 1x1 below.

    Halving takes squares of 2 x 2 that do not overlap. No norm mixes positions, and there is no attention.
    """
    p = config.patch
    layers: Layers = [
        ("to_patches", nn.PixelUnshuffle(p)),
        ("conv_in", nn.Conv2d(3 * p * p, config.channels, 3, padding=1)),
    ]
    previous = config.channels
    for i, width in enumerate(config.widths):
        if i > 0:
            layers.append((f"level{i}_down", nn.Conv2d(previous, width, 2, stride=2)))
            previous = width
        for j in range(config.num_res_blocks):
            block = ResBlock(previous, width, ChannelNorm, kernel=3 if i == 0 else 1)
            layers.append((f"level{i}_block{j}", block))
            previous = width
    layers += [
        ("middle_block0", ResBlock(previous, previous, ChannelNorm, kernel=1)),
        ("middle_block1", ResBlock(previous, previous, ChannelNorm, kernel=1)),
        ("norm_out", ChannelNorm(previous)),
        ("swish_out", nn.SiLU()),
        ("conv_out", nn.Conv2d(previous, config.latent_channels, 1)),
        ("to_code", nn.Conv2d(config.latent_channels, config.code_dim, 1)),
    ]
    return _sequential(layers)


def build_decoder(config: VQGANConfig) -> nn.Sequential:
    """Codes to pixels in [-1, 1]; mirrors the encoder with one more block a level."""
    resolution, previous = config.grid_size, config.widths[-1]
    layers: Layers = [
        ("from_code", nn.Conv2d(config.code_dim, config.latent_channels, 1)),
        ("conv_in", nn.Conv2d(config.latent_channels, previous, 3, padding=1)),
        *_middle(config),
    ]
    for i, width in reversed(list(enumerate(config.widths))):
        if i < len(config.widths) - 1:
            layers.append((f"level{i}_up", Upsample(previous)))
            resolution *= 2
        widths = (previous, *[width] * (config.num_res_blocks + 1))
        layers += _level(config, f"level{i}", widths, resolution)
        previous = width
    layers += [
        ("norm_out", _group_norm(config)(previous)),
        ("swish_out", nn.SiLU()),
        ("conv_out", nn.Conv2d(previous, 3 * config.patch**2, 3, padding=1)),
        ("to_pixels", nn.PixelShuffle(config.patch)),
    ]
    return _sequential(layers)


def build(config: VQGANConfig) -> tuple[nn.Module, Quantizer, nn.Module]:
    """Return encoder, codes and decoder with initial weights."""
    encoder = (build_local_encoder if config.local_encoder else build_encoder)(config)
    quantizer: Quantizer
    if config.quantizer is QuantizerKind.GUMBEL:
        quantizer = GumbelQuantizer(config.num_codes, config.code_dim, config.code_dim)
    else:
        quantizer = VectorQuantizer(config.num_codes, config.code_dim, config.normalised)
    return encoder, quantizer, build_decoder(config)
