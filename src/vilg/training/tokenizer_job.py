"""Training an image tokenizer: reconstruct pictures through the codebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vilg.data.order import batch_ids
from vilg.images import contact_sheet, to_pictures, to_pixels
from vilg.parallel import own_share
from vilg.randomness import uniforms
from vilg.tokenizer.codebooks import CodebookConfig, CodebookTraining, Quantized
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.training.augment import AugmentConfig, augment
from vilg.training.loop import LoopConfig, Turn
from vilg.training.picture_loss import (
    PictureLoss,
    PictureLossConfig,
    check_fits,
    discriminator_alarm,
)


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
        loss: PictureLossConfig,
        codebook: CodebookConfig,
        augmentation: AugmentConfig,
        loop: LoopConfig,
        pictures_NYX3: NDArray[np.uint8],
        held_out_BYX3: NDArray[np.uint8],
        init: ImageTokenizer | None = None,
    ):
        check_fits(loss, config)
        with torch.random.fork_rng():  # the caller's random numbers stay as they were
            torch.manual_seed(loop.seed)
            self.tokenizer = ImageTokenizer(config)
            if init is not None:
                self.tokenizer.load_state_dict(init.state_dict())
            self.codebook = CodebookTraining(self.tokenizer.quantizer, codebook, loop.seed)
            self.picture_loss = PictureLoss(loss)
        # A codebook that learns by gradients is a weight of the first turn, like the network's.
        learner = nn.ModuleDict({"tokenizer": self.tokenizer, "codebook": self.codebook})
        self._train(learner)
        self.augmentation, self.loop = augmentation, loop
        self.pictures_NYX3, self.held_out_BYX3 = pictures_NYX3, held_out_BYX3

    def _train(self, learner: nn.ModuleDict) -> None:
        """Set what a step updates: these parts, and after them what the loss of pictures trains."""
        others = self.picture_loss.turns
        self.module = nn.ModuleDict({"learner": learner} | {t.name: t.module for t in others})
        self.turns: Sequence[Turn] = [Turn("", learner, self.loss), *others]

    def loss(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what encoder, codes and decoder minimise on the step's batch."""
        batch = batch_ids(self.loop.seed, step, self.loop.batch_size, len(self.pictures_NYX3))
        ids = own_share(batch)
        pixels = to_pixels(self._arrays(step, ids))
        quantized = self._quantized(pixels, step, ids)
        raw = self.tokenizer.decoder(quantized.codes_BDHW).float()
        made = self.tokenizer.to_image(raw)
        total, values = self.picture_loss(step, raw, made, pixels, self.tokenizer.decoder)
        return total + quantized.loss, values | quantized.values

    def _arrays(self, step: int, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the step's pictures, moved about."""
        return augment(self.pictures_NYX3[ids], self.loop.seed, step, ids, self.augmentation)

    def _quantized(self, pixels: Tensor, step: int, ids: NDArray[np.int64]) -> Quantized:
        """Return the codes that the decoder sees, and what the codebook's own loss adds."""
        return self.codebook(
            self.tokenizer.quantizer,
            self.tokenizer.encoder(pixels),
            step,
            ids,
            pixels[0].numel(),
        )

    def after_step(self, step: int) -> dict[str, float]:
        """Let the codebook follow the batch that was just seen."""
        return self.codebook.follow(self.tokenizer.quantizer, step)

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people when the codebook falls out of use or a discriminator has won."""
        if values["usage"] >= self.codebook.config.alarm_below:
            return discriminator_alarm(values)
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


class DecoderJob(TokenizerJob):
    """The decoder alone learns on: tokens mean what they meant, and generators of them stay valid.

    Encoder and codes are those of `init`, which must be given.

    Args:
        refined: positions_R of some pictures and their tokens ids_RHW, better ones than the encoder's
            (`tokenizer/refine.py`). Each time that such a picture comes, it is as it is and has these, or
            it is moved about and has the encoder's, by the toss of a coin.
    """

    def __init__(
        self,
        *args: Any,
        refined: tuple[NDArray[np.int64], NDArray[np.uint16]] | None = None,
        **settings: Any,
    ):
        super().__init__(*args, **settings)
        grid = self.tokenizer.config.grid_size
        nothing = np.empty(0, np.int64), np.empty((0, grid, grid), np.uint16)
        positions_R, self.refined_RHW = refined or nothing
        self.row_N = np.full(len(self.pictures_NYX3), -1)
        self.row_N[positions_R] = np.arange(len(positions_R))
        self._train(nn.ModuleDict({"decoder": self.tokenizer.decoder}))

    def _is_refined(self, step: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (self.row_N[ids] >= 0) & (uniforms(self.loop.seed, "refined", step, ids) < 0.5)

    def _arrays(self, step: int, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        moved_BYX3, as_it_is_B = super()._arrays(step, ids), self._is_refined(step, ids)
        return np.where(as_it_is_B[:, None, None, None], self.pictures_NYX3[ids], moved_BYX3)

    def _quantized(self, pixels: Tensor, step: int, ids: NDArray[np.int64]) -> Quantized:
        ids_BHW, refined_B = self.tokenizer.encode(pixels), self._is_refined(step, ids)
        refined_BHW = self.refined_RHW[self.row_N[ids[refined_B]]].astype(np.int64)
        ids_BHW[torch.from_numpy(refined_B)] = torch.from_numpy(refined_BHW)
        codes_BDHW = self.tokenizer.quantizer.lookup(ids_BHW).detach()
        return Quantized(codes_BDHW, ids_BHW, codes_BDHW.new_zeros(()), {})

    def after_step(self, step: int) -> dict[str, float]:
        """Nothing follows: the codes stay."""
        return {}

    def alarm(self, values: dict[str, float]) -> str | None:
        """Codes that stay cannot fall out of use; a discriminator can still win."""
        return discriminator_alarm(values)
