"""Training an image tokenizer: reconstruct pictures through the codebook."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vilg.data.order import batch_ids
from vilg.device import HOST
from vilg.images import contact_sheet, to_pictures, to_pixels
from vilg.parallel import WHOLE, Share, check_divides, is_first, own_shares
from vilg.randomness import uniforms
from vilg.tokenizer.codebooks import CodebookConfig, CodebookTraining, Quantized
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.training.augment import AugmentConfig, augment
from vilg.training.loop import LoopConfig, Turn
from vilg.training.picture_loss import (
    Made,
    PictureLoss,
    PictureLossConfig,
    check_fits,
    discriminator_alarm,
)


@dataclass(frozen=True)
class DecoderAlone:
    """The decoder alone learns on: tokens mean what they meant, and generators of them stay valid.

    Attributes:
        refined: better tokens ids_HW of some pictures than the encoder's (`tokenizer/refine.py`), by the
            pictures' positions. Each time that such a picture comes, it is as it is and has these, or it
            is moved about and has the encoder's, by the toss of a coin.
    """

    refined: Mapping[int, NDArray[np.uint16]] = field(default_factory=dict)

    def is_refined(self, seed: int, step: int, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of a batch's pictures have their refined tokens this time."""
        known = np.array([i in self.refined for i in ids.tolist()], dtype=bool)
        return known & (uniforms(seed, "refined", step, ids) < 0.5)


class TokenizerJob:
    """The tokenizer, what its codebook learns by, its discriminator, and the pictures.

    Args:
        pictures_NYX3: all training pictures as bytes.
        held_out_BYX3: a few others, only looked at.
        init: a finished tokenizer of the same shape to go on from; its codes count as evenly used.
        alone: what the decoder sees where only it learns, encoder and codes being those of `init`.

    Raises:
        SettingError: loss terms that do not fit the tokenizer.
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
        alone: DecoderAlone | None = None,
        device: torch.device = HOST,
    ):
        check_fits(loss, config)
        check_divides("pictures a step", loop.batch_size, loop.accumulate)
        with torch.random.fork_rng():  # the caller's random numbers stay as they were
            torch.manual_seed(loop.seed)
            self.tokenizer = ImageTokenizer(config)
            if init is not None:
                self.tokenizer.load_state_dict(init.state_dict())
            self.codebook = CodebookTraining(self.tokenizer.quantizer, codebook, loop.seed)
            self.picture_loss = PictureLoss(loss)
        self.tokenizer.to(device)
        self.codebook.to(device)
        self.picture_loss.to(device)
        self.augmentation, self.loop, self.alone = augmentation, loop, alone
        self.pictures_NYX3, self.held_out_BYX3 = pictures_NYX3, held_out_BYX3
        # A codebook that learns by gradients is a weight of the first turn, like the network's.
        learner = nn.ModuleDict(
            {"decoder": self.tokenizer.decoder}
            if alone
            else {"tokenizer": self.tokenizer, "codebook": self.codebook}
        )
        others = self.picture_loss.turns
        self.module = nn.ModuleDict({"learner": learner} | {t.name: t.module for t in others})
        self.turns: Sequence[Turn] = [Turn("", learner, [self.loss]), *others]

    def loss(self, step: int, share: Share = WHOLE) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what all that learns minimises on the step's batch, or a share's part of it."""
        decoder, own = self.tokenizer.decoder, own_shares(self.loop.accumulate)
        if share == own[0] and len(own) > 1:
            parts = (self._made(step, each)[0] for each in own)
            self.picture_loss.weigh(step, parts, decoder)
        made_of, quantized = self._made(step, share)
        total, values = self.picture_loss(step, made_of, decoder, share)
        if quantized is None:
            return total, values
        more = {name: value / share.of for name, value in quantized.values.items()}
        return total + quantized.loss / share.of, values | more

    def _made(self, step: int, share: Share) -> tuple[Made, Quantized | None]:
        """Return what the decoder makes of a share of the step's pictures, and how codes were chosen."""
        batch = batch_ids(self.loop.seed, step, self.loop.batch_size, len(self.pictures_NYX3))
        ids = share.part(batch)
        arrays_BYX3 = augment(self.pictures_NYX3[ids], self.loop.seed, step, ids, self.augmentation)
        if self.alone:
            as_they_are_B = self.alone.is_refined(self.loop.seed, step, ids)
            arrays_BYX3[as_they_are_B] = self.pictures_NYX3[ids[as_they_are_B]]
            pixels = to_pixels(arrays_BYX3).to(self.device)
            ids_BHW = self.tokenizer.encode(pixels)
            for at in as_they_are_B.nonzero()[0]:
                refined_HW = self.alone.refined[int(ids[at])].astype(np.int64)
                ids_BHW[at] = torch.from_numpy(refined_HW)
            codes_BDHW = self.tokenizer.quantizer.lookup(ids_BHW).detach()
            return self._decoded(codes_BDHW, pixels), None
        pixels = to_pixels(arrays_BYX3).to(self.device)
        quantized = self.codebook(
            self.tokenizer.quantizer,
            self.tokenizer.encoder(pixels),
            step,
            ids,
            pixels[0].numel(),
            share,
        )
        return self._decoded(quantized.codes_BDHW, pixels), quantized

    def _decoded(self, codes_BDHW: Tensor, pixels: Tensor) -> Made:
        raw = self.tokenizer.decoder(codes_BDHW).float()
        return raw, self.tokenizer.to_image(raw), pixels

    @property
    def device(self) -> torch.device:
        return self.tokenizer.quantizer.codebook_KD.device

    def after_step(self, step: int) -> dict[str, Tensor]:
        """Let the codebook, if it learns, follow the batch that was just seen."""
        return {} if self.alone else self.codebook.follow(self.tokenizer.quantizer, step)

    def alarm(self, values: dict[str, float]) -> str | None:
        """Return a line for people when the codebook falls out of use or a discriminator has won."""
        if self.alone or values["usage"] >= self.codebook.config.alarm_below:
            return discriminator_alarm(values)
        num_codes = self.tokenizer.config.num_codes
        return (
            f"codebook alarm: {values['usage']:.0%} of {num_codes} codes in use, perplexity "
            f"{values['perplexity']:.0f}; raise codebook.restart_below, lower codebook.decay or "
            "peak_lr, or take fewer codes"
        )

    def show(self, step: int, folder: Path) -> None:
        """Write held-out pictures over their reconstructions."""
        if not is_first():
            return
        folder.mkdir(parents=True, exist_ok=True)
        pixels = to_pixels(self.held_out_BYX3).to(self.device)
        decoded = self.tokenizer.decode(self.tokenizer.encode(pixels))
        sheet = contact_sheet([to_pictures(pixels), to_pictures(decoded)], scale=2)
        sheet.save(folder / f"step-{step:08d}.png")
