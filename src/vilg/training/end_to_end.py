"""End-to-end training: the image reconstructor learns with the generator (paper section 3.1.3).

L = L_txt2img + L_img2txt + L_rec, with equal weights: cross-entropy a token, and the image tokenizer's own
loss a pixel. The image tokenizer stays as it is: its ids are data.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vilg.images import to_pictures, to_pixels
from vilg.model.generator import GeneratorConfig
from vilg.model.reconstructor import Reconstructor
from vilg.parallel import WHOLE, Share
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.training.picture_loss import Made, PictureLoss, PictureLossConfig, check_fits


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig:
    """How the reconstructor learns.

    Attributes:
        loss: of the pixels; the image tokenizer's own terms.
        detach_states: keep the loss of the pixels away from the generator (an ablation).
    """

    loss: PictureLossConfig = PictureLossConfig()
    detach_states: bool = False


class EndToEnd:
    """A reconstructor, and the pictures that it learns to make of a generator's states.

    Args:
        pictures_SYX3: of every pair, as the image tokenizer saw them.
        seed: of the map's and the discriminator's first weights.
    """

    def __init__(
        self,
        config: EndToEndConfig,
        generator: GeneratorConfig,
        image_tokenizer: ImageTokenizer,
        pictures_SYX3: NDArray[np.uint8],
        seed: int,
    ):
        check_fits(config.loss, image_tokenizer.config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.reconstructor = Reconstructor(generator.width, image_tokenizer)
            self.picture_loss = PictureLoss(config.loss)
        self.config, self.grid = config, generator.grid
        self.image_tokenizer, self.pictures_SYX3 = image_tokenizer, pictures_SYX3

    def to(self, device: torch.device) -> None:
        """Move all networks to a device."""
        self.reconstructor.to(device)
        self.picture_loss.to(device)

    def pictures(self, states_BNC: Tensor) -> list[Image.Image]:
        """Return what the reconstructor makes of states, for people."""
        return to_pictures(self._made(states_BNC)[1])

    def _made(self, states_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's raw output and the pixels_B3YX that it stands for."""
        raw = self.reconstructor(states_BNC, self.grid).float()
        return raw, self.image_tokenizer.to_image(raw)

    def _made_of(self, states_BNC: Tensor, ids: NDArray[np.int64]) -> Made:
        pixels = to_pixels(self.pictures_SYX3[ids]).to(states_BNC.device)
        return *self._made(states_BNC), pixels

    def weigh(self, step: int, parts: Iterable[tuple[Tensor, NDArray[np.int64]]]) -> None:
        """Balance the adversarial term of a step in several micro-batches (`PictureLoss.weigh`).

        Args:
            parts: states and ids of each, as `loss` has them.
        """
        made_of = (self._made_of(states, ids) for states, ids in parts)
        self.picture_loss.weigh(step, made_of, self.reconstructor.decoder)

    def loss(
        self, step: int, states_BNC: Tensor, ids: NDArray[np.int64], share: Share = WHOLE
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_rec of a batch's pictures and its parts, or a share's part of them.

        Args:
            states_BNC: the last layer's at z_1 .. z_N of the true tokens.
            ids: of the pairs.
        """
        if self.config.detach_states:
            states_BNC = states_BNC.detach()
        made_of = self._made_of(states_BNC, ids)
        return self.picture_loss(step, made_of, self.reconstructor.decoder, share)
