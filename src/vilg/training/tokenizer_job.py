"""Training the image tokenizer: reconstruct pictures through the codebook.

Perceptual and adversarial terms have their place in `TokenizerJob.loss`; the first recipe does
without them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vilg.data.order import batch_ids
from vilg.images import contact_sheet, to_pictures, to_pixels
from vilg.randomness import integers, uniforms
from vilg.tokenizer.quantizers import CodebookAverages
from vilg.tokenizer.vqgan import VQGAN, VQGANConfig
from vilg.training.loop import LoopConfig


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """Weights of the loss terms and the codebook's rules.

    Attributes:
        l1, l2: weights of absolute and squared pixel error (VQGAN uses L1; paper eq. 1 squares).
        commitment: weight of the commitment term (VQ-VAE's beta; eq. 1 of the paper has none, that
            is 1.0; on the unit sphere distances are far larger than pixel errors).
        max_shift: largest random shift of a training picture in pixels, each way, white at the edge.
    """

    l1: float = 1.0
    l2: float = 1.0
    commitment: float = 0.1
    codebook_decay: float = 0.97
    restart_below: float = 0.1
    max_shift: int = 4
    flip: bool = True


def augment(
    arrays_BYX3: NDArray[np.uint8],
    seed: int,
    step: int,
    ids: NDArray[np.int64],
    config: TokenizerLossConfig,
) -> NDArray[np.uint8]:
    """Shift each picture on white ground and mirror half of them; a function of (seed, step, id)."""
    s, size = config.max_shift, arrays_BYX3.shape[1]
    padded = np.pad(arrays_BYX3, ((0, 0), (s, s), (s, s), (0, 0)), constant_values=255)
    down, right = (integers(seed, f"shift-{axis}", 2 * s + 1, step, ids) for axis in "yx")
    mirrored = (uniforms(seed, "mirror", step, ids) < 0.5) & config.flip
    out = np.empty_like(arrays_BYX3)
    for i, (y, x) in enumerate(zip(down, right, strict=True)):
        crop = padded[i, y : y + size, x : x + size]
        out[i] = crop[:, ::-1] if mirrored[i] else crop
    return out


class TokenizerJob:
    """The tokenizer, the averages behind its codebook, and the pictures it learns from.

    Args:
        pictures_NYX3: all training pictures as bytes.
        held_out_BYX3: a few others, only looked at.
    """

    def __init__(
        self,
        config: VQGANConfig,
        loss: TokenizerLossConfig,
        loop: LoopConfig,
        pictures_NYX3: NDArray[np.uint8],
        held_out_BYX3: NDArray[np.uint8],
    ):
        with torch.random.fork_rng():  # the caller's random numbers stay as they were
            torch.manual_seed(loop.seed)
            self.vqgan = VQGAN(config)
        self.averages = CodebookAverages(
            self.vqgan.quantizer, loss.codebook_decay, loss.restart_below
        )
        self.module = nn.ModuleDict({"vqgan": self.vqgan, "averages": self.averages})
        self.config, self.loop = loss, loop
        self.pictures_NYX3, self.held_out_BYX3 = pictures_NYX3, held_out_BYX3
        self._last: tuple[Tensor, Tensor] | None = None

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L1 + L2 + commitment of the step's batch."""
        ids = batch_ids(self.loop.seed, step, self.loop.batch_size, len(self.pictures_NYX3))
        arrays = augment(self.pictures_NYX3[ids], self.loop.seed, step, ids, self.config)
        pixels = to_pixels(arrays)
        reconstruction, commitment, latent_BDHW, ids_BHW = self.vqgan(pixels)
        self._last = (latent_BDHW.detach(), ids_BHW)
        l1, l2 = F.l1_loss(reconstruction, pixels), F.mse_loss(reconstruction, pixels)
        total = self.config.l1 * l1 + self.config.l2 * l2 + self.config.commitment * commitment
        # Pixels span 2, so the peak signal is 2 squared.
        psnr = 10 * torch.log10(4 / l2.detach())
        return total, {"l1": l1.detach(), "commitment": commitment.detach(), "psnr": psnr}

    def after_step(self, step: int) -> dict[str, float]:
        """Let the codebook follow the batch that was just seen."""
        assert self._last is not None
        latent_BDHW, ids_BHW = self._last
        return self.averages.update(
            self.vqgan.quantizer, latent_BDHW, ids_BHW, self.loop.seed, step
        )

    def show(self, step: int, folder: Path) -> None:
        """Write held-out pictures over their reconstructions."""
        folder.mkdir(parents=True, exist_ok=True)
        pixels = to_pixels(self.held_out_BYX3)
        decoded = self.vqgan.decode(self.vqgan.encode(pixels))
        sheet = contact_sheet([to_pictures(pixels), to_pictures(decoded)], scale=2)
        sheet.save(folder / f"step-{step:08d}.png")
