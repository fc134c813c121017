"""The public face: pictures from words and words from pictures in a few lines.

from vilg import Vilg
m = Vilg.from_pretrained()
m.generate("red apple, 3D render", n=4, seed=7)[0].save("apple.png")
m.caption("apple.png", lang="zh")
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from vilg.errors import VilgError
from vilg.images import open_picture, square, to_array, to_pictures, to_pixels
from vilg.model.folder import (
    Decoder,
    Model,
    ModelError,
    SamplingConfig,
    find_model,
    load_model,
    save_model,
    weights_hash,
)
from vilg.model.generator import image_to_text_log_probs, text_to_image_log_probs
from vilg.sampling.decode import Drawn, Progress, draw_images, generate_texts
from vilg.text import LANGUAGES, TextError, TextTokenizer, guess_language

Picture = Path | str | Image.Image

# Images drawn at once: enough to fill the cores, little enough for any memory.
_BATCH = 32


class SettingError(VilgError):
    """A sampling setting outside its range."""


@dataclass(frozen=True)
class Score:
    """How likely a picture and a text make each other, in nats (log probabilities).

    Attributes:
        image_log_probs: log P(z_k | text, z_<k), one an image token in raster order.
        text_log_probs: log P(t_k | image, t_<k), one a text token, the end token last.
        text_tokens: what those text tokens are.
        unconditional_image_log_probs: log P(z_k | z_<k), the same with the null prompt; the difference
            is what the text says about the picture.
    """

    image_log_probs: list[float]
    text_log_probs: list[float]
    text_tokens: list[str]
    unconditional_image_log_probs: list[float]

    @property
    def image_given_text(self) -> float:
        """Mean log probability of an image token."""
        return sum(self.image_log_probs) / len(self.image_log_probs)

    @property
    def text_given_image(self) -> float:
        """Mean log probability of a text token."""
        return sum(self.text_log_probs) / len(self.text_log_probs)


class Vilg:
    """A trained model with its two tokenizers.

    Attributes:
        weights_hash: identifies the weights; None for a model that is not from a folder.
    """

    def __init__(self, model: Model, weights_hash: str | None = None):
        if model.generator is None or model.text_tokenizer is None:
            raise ModelError(
                "this model is an image tokenizer only: train a generator for it first"
            )
        self.model = model
        self.generator = model.generator
        self.image_tokenizer = model.image_tokenizer
        self.text_tokenizer: TextTokenizer = model.text_tokenizer
        self.weights_hash = weights_hash

    @classmethod
    def from_pretrained(cls, model: str | Path | None = None) -> Self:
        """Load a folder, a hub id "owner/name", or, for None, the shipped model.

        Raises:
            ModelError: nothing there, or not a whole model.
        """
        folder = find_model(model)
        return cls(load_model(folder), weights_hash(folder))

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a folder that `from_pretrained` reads, in half precision."""
        save_model(Path(folder), self.model)

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.image_tokenizer.config.image_size

    def generate(
        self,
        prompt: str,
        n: int = 1,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        guidance: float | None = None,
        decoder: Decoder | str | None = None,
        progress: Progress | None = None,
    ) -> list[Image.Image]:
        """Draw `n` pictures of a prompt, in Chinese or English.

        Args:
            seed: picture i has seed `seed + i`, and is the same whatever `n` is.
            temperature, top_k, guidance, decoder: None takes the model's own settings.
            progress: called with (tokens done, tokens in all).

        Raises:
            TextError: empty or too long a prompt.
            SettingError: a setting outside its range, or a decoder that this model has not.
        """
        drawn = self.draw(
            [prompt] * n,
            range(seed, seed + n),
            temperature=temperature,
            top_k=top_k,
            guidance=guidance,
            decoder=decoder,
            progress=progress,
        )
        return self.pictures(drawn)

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        guidance: float | None = None,
        decoder: Decoder | str | None = None,
        progress: Progress | None = None,
    ) -> Drawn:
        """Draw the tokens of one picture a prompt; for the end-to-end decoder its states too."""
        settings = self.settings(temperature, top_k, guidance, decoder)
        _check(len(prompts) > 0, f"the number of pictures must be at least 1, not {len(prompts)}")
        texts = [self.encode_text(prompt) for prompt in prompts]
        total = self.generator.config.grid.num_cells * len(texts)
        keep_states = settings.decoder is Decoder.END_TO_END
        drawn: list[Drawn] = []
        for first in range(0, len(texts), _BATCH):
            here = texts[first : first + _BATCH]

            def report(done: int, _: int, first: int = first, size: int = len(here)) -> None:
                if progress:
                    progress(first * self.generator.config.grid.num_cells + done * size, total)

            drawn.append(
                draw_images(
                    self.generator,
                    here,
                    seeds[first : first + _BATCH],
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    guidance=settings.guidance,
                    keep_states=keep_states,
                    progress=report,
                )
            )
        states = [part.states_BNC for part in drawn if part.states_BNC is not None]
        return Drawn(
            torch.cat([part.image_ids_BN for part in drawn]),
            torch.cat(states) if keep_states else None,
        )

    def caption(
        self,
        image: Picture,
        lang: str = "zh",
        n: int = 1,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
    ) -> list[str]:
        """Describe a picture `n` times.

        Args:
            temperature: None takes the likeliest word each time for one caption, and 1 for several,
                which would be equal otherwise.

        Raises:
            ImageError: the picture cannot be read.
            TextError: an unknown language.
            SettingError: a setting outside its range.
        """
        _check(n >= 1, f"the number of captions must be at least 1, not {n}")
        temperature = (0.0 if n == 1 else 1.0) if temperature is None else temperature
        settings = self.settings(temperature, top_k)
        language_id = self.text_tokenizer.language_id(lang)
        texts = generate_texts(
            self.generator,
            self.encode([image]).repeat(n, 1),
            [language_id] * n,
            range(seed, seed + n),
            temperature=settings.temperature,
            top_k=settings.top_k,
        )
        return [self.text_tokenizer.decode(text) for text in texts]

    @torch.inference_mode()
    def score(self, image: Picture, text: str, lang: str | None = None) -> Score:
        """Return how likely the picture is given the text, and the text given the picture.

        Args:
            lang: language of the text; None looks at its characters.

        Raises:
            ImageError, TextError: as `caption` and `generate` do.
        """
        ids = self.encode_text(text)
        language_id = self.text_tokenizer.language_id(lang or guess_language(text))
        image_ids_1N = self.encode([image])
        both_BN = text_to_image_log_probs(self.generator, [ids, []], image_ids_1N.repeat(2, 1))
        text_1M, _ = image_to_text_log_probs(self.generator, image_ids_1N, [language_id], [ids])
        return Score(
            both_BN[0].tolist(),
            text_1M[0].tolist(),
            self.text_tokenizer.token_strings([*ids, TextTokenizer.eos_id]),
            both_BN[1].tolist(),
        )

    def encode(self, images: Sequence[Picture]) -> Tensor:
        """Return image_ids_BN of pictures, centre-cropped and resized to the model's size."""
        arrays = [to_array(square(open_picture(image), self.image_size)) for image in images]
        # One at a time, here and in `decode`: convolutions may round differently in a batch, and a
        # picture must not depend on the others.
        return torch.cat(
            [self.image_tokenizer.encode(to_pixels(array[None])).flatten(1) for array in arrays]
        )

    def decode(self, image_ids_BN: Tensor) -> list[Image.Image]:
        """Return the pictures of token rows."""
        grid = self.generator.config.grid
        ids_B1HW = image_ids_BN.view(-1, 1, grid.height, grid.width)
        return [to_pictures(self.image_tokenizer.decode(ids_1HW))[0] for ids_1HW in ids_B1HW]

    def pictures(self, drawn: Drawn) -> list[Image.Image]:
        """Return the pictures of what was drawn: by the reconstructor where states were kept."""
        if drawn.states_BNC is None:
            return self.decode(drawn.image_ids_BN)
        reconstructor, grid = self.model.reconstructor, self.generator.config.grid
        assert reconstructor is not None
        with torch.inference_mode():
            raws = [reconstructor(states_NC[None], grid) for states_NC in drawn.states_BNC]
            return [to_pictures(self.image_tokenizer.to_image(raw))[0] for raw in raws]

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            TextError: an empty text, or one longer than the model reads.
        """
        ids = self.text_tokenizer.encode(text)
        # The caption of an image needs one place more, for its language or end token.
        longest = self.generator.config.max_text - 1
        if len(ids) > longest:
            raise TextError(
                f"the text has {len(ids)} tokens and this model reads {longest}: shorten it"
            )
        return ids

    def settings(
        self,
        temperature: float | None = None,
        top_k: int | None = None,
        guidance: float | None = None,
        decoder: Decoder | str | None = None,
    ) -> SamplingConfig:
        """Return the model's own settings with those replaced that are given.

        Raises:
            SettingError: one outside its range, or a decoder that this model has not.
        """
        own = self.model.sampling
        temperature = own.temperature if temperature is None else temperature
        top_k = own.top_k if top_k is None else top_k
        guidance = own.guidance if guidance is None else guidance
        _check(
            temperature >= 0 and math.isfinite(temperature),
            f"the temperature must be 0 or more, not {temperature}",
        )
        _check(top_k is None or top_k >= 1, f"top-k must be at least 1, not {top_k}")
        _check(
            guidance >= 0 and math.isfinite(guidance),
            f"the guidance must be 0 or more, not {guidance}",
        )
        decoder = own.decoder if decoder is None else decoder
        _check(decoder in [*Decoder], f"the decoder must be {' or '.join(Decoder)}, not {decoder}")
        decoder = Decoder(decoder)
        _check(
            decoder is Decoder.TWO_STAGE or self.model.reconstructor is not None,
            "this model has no end-to-end decoder: train one, or take the two-stage decoder",
        )
        return SamplingConfig(
            temperature=temperature, top_k=top_k, guidance=guidance, decoder=decoder
        )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise SettingError(message)


__all__ = ["LANGUAGES", "Score", "SettingError", "Vilg"]
