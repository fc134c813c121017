"""The public face: pictures from words and words from pictures in a few lines.

from vilg import Vilg
m = Vilg.from_pretrained()
m.generate("green apple, 3D render", n=4, seed=7)[0].save("apple.png")
m.caption("apple.png", lang="zh")
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Self, Unpack

import torch
from PIL import Image
from torch import Tensor

from vilg.errors import SettingError, VilgWarning, require
from vilg.images import Picture, open_picture, square, to_array, to_pictures, to_pixels
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model, ModelError, find_model, load_model, save_model, weights_hash
from vilg.sampling.candidates import by_model, by_ranker, draw_best
from vilg.sampling.describe import Caption, CaptionOptions, caption_settings, caption_texts
from vilg.sampling.edit import paste, redrawn
from vilg.sampling.images import Drawn, Kept
from vilg.sampling.precision import Precision, check_supported, prepared
from vilg.sampling.rank import Ranker, caption_scores
from vilg.sampling.score import Score, score_pair, word_gains
from vilg.sampling.settings import (
    Changes,
    DrawOptions,
    Preview,
    Progress,
    seeds_from,
    settings_with,
    whole_number,
)
from vilg.text import LANGUAGES, TextError, TextTokenizer, guess_language


class Vilg:
    """A trained model with its two tokenizers.

    Args:
        precision: how the generator's weights are multiplied; docs/benchmarks.md says what each costs.

    Raises:
        ModelError: an image tokenizer without a generator.
        SettingError: an unknown precision.
        PrecisionError: one that this processor has no instructions for.

    Attributes:
        generator: the model's, made ready for decoding; the model itself is left as it is.
        weights_hash: identifies the weights; None for a model that is not from a folder.
    """

    def __init__(
        self,
        model: Model,
        weights_hash: str | None = None,
        precision: Precision | str = Precision.FP32,
    ):
        if model.generator is None or model.text_tokenizer is None:
            raise ModelError(
                "this model is an image tokenizer only: train a generator for it first"
            )
        self.model = model
        require(
            precision in [*Precision],
            f"the precision must be {' or '.join(Precision)}, not {precision}",
        )
        check_supported(Precision(precision))
        self.generator = prepared(model.generator, Precision(precision))
        self.image_tokenizer = model.image_tokenizer
        self.text_tokenizer: TextTokenizer = model.text_tokenizer
        self.weights_hash = weights_hash

    @classmethod
    def from_pretrained(
        cls, model: str | Path | None = None, *, precision: Precision | str = Precision.FP32
    ) -> Self:
        """Load a folder, a hub id "owner/name", or, for None, the shipped model.

        Raises:
            ModelError: nothing there, or not a whole model.
            SettingError: an unknown precision.
            PrecisionError: one that this processor has no instructions for.
        """
        folder = find_model(model)
        return cls(load_model(folder), weights_hash(folder), precision)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a folder that `from_pretrained` reads, in half precision."""
        save_model(Path(folder), self.model)

    @property
    def image_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.image_tokenizer.config.image_size

    def generate(
        self, prompt: str, n: int = 1, *, seed: int = 0, **options: Unpack[DrawOptions]
    ) -> list[Image.Image]:
        """Draw `n` pictures of a prompt, in Chinese or English.

        Args:
            seed: picture i has seed `seed + i`, and is the same whatever `n` is.
            options: `DrawOptions`, among them the settings that differ from the model's own, such as
                `guidance=3, best_of=16`.

        Raises:
            TextError: empty or too long a prompt.
            SettingError: a setting outside its range, or a decoder that this model has not.
        """
        seeds = seeds_from(seed, n, "pictures")
        return self.pictures(self.draw([prompt] * len(seeds), seeds, **options))

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        kept: Kept | None = None,
        rank: Ranker | None = None,
        progress: Progress | None = None,
        preview: Preview | None = None,
        **changes: Unpack[Changes],
    ) -> Drawn:
        """Draw the tokens of one picture a prompt and seed; for the end-to-end decoder its states too.

        Args:
            kept: tokens that stay, one row a picture. Candidates are then ranked by how likely they make
                the kept tokens behind them, unless `rank` is given or nothing is kept behind.
            rank, progress, preview, changes: `DrawOptions`.
        """
        settings = self.settings(**changes)
        require(not isinstance(prompts, str), "one prompt for every picture: give a list of them")
        require(len(prompts) > 0, f"the number of pictures must be at least 1, not {len(prompts)}")
        require(
            len(seeds) == len(prompts),
            f"a seed for every picture: there are {len(seeds)} for {len(prompts)}",
        )
        require(
            rank is None or settings.best_of > 1,
            "a ranker chooses among candidates: set best_of",
        )
        for name, told in (("rank", rank), ("progress", progress), ("preview", preview)):
            require(told is None or callable(told), f"{name} must be a function, not {told!r}")
        seeds = [whole_number(seed, "the seed") for seed in seeds]
        texts = [self.encode_text(prompt) for prompt in prompts]
        self._warn_of_unknown("".join(dict.fromkeys(prompts)))
        grid, N = self.generator.config.grid, settings.best_of

        def watch(num_finished: int, image_ids_Bk: Tensor) -> None:
            B, k = image_ids_Bk.shape
            if progress:
                done = grid.num_cells * num_finished + B * k
                progress(done, grid.num_cells * N * len(prompts))
            if preview and k % grid.width == 0:
                # An edited picture stands as it was below what is drawn.
                rows_B = (num_finished + torch.arange(B)) // N
                below_BN = kept.image_ids_GN[rows_B] if kept else None
                preview(self._unfinished(image_ids_Bk, below_BN))

        languages = [self.text_tokenizer.language_id(guess_language(prompt)) for prompt in prompts]
        score = (
            by_ranker(rank, prompts, self.pictures)
            if rank
            else by_model(self.generator, texts, languages)
        )
        return draw_best(self.generator, texts, seeds, settings, score, kept=kept, watch=watch)

    def edit(
        self,
        image: Picture,
        prompt: str,
        n: int = 1,
        *,
        mask: Picture | None = None,
        first_row: int | None = None,
        share: float | None = None,
        seed: int = 0,
        raw: bool = False,
        **options: Unpack[DrawOptions],
    ) -> list[Image.Image]:
        """Draw part of a picture anew, at the model's size, `n` times; all other tokens stay.

        Which part is said by one of three:

        Args:
            mask: a picture of the same size, white where the prompt is to be drawn; a transparent
                ground counts as black.
            first_row: the rows of tokens from this one on, counted from 0; those above are kept.
            share: about this share of the tokens, others for every seed: variations.
            raw: return what the tokens decode to; else pixels that are not drawn anew are the picture's.
            options: as `generate` has them. Candidates of `best_of` are ranked by how likely they make
                the kept tokens behind them, unless `rank` is given or nothing is kept behind.

        Raises:
            ImageError, TextError: as `caption` and `generate` do.
            SettingError: a mask of another size, or all black; or as `generate` does.
        """
        seeds, picture = seeds_from(seed, n, "pictures"), open_picture(image)
        redraw_GN, masks = redrawn(
            picture, mask, first_row, share, seeds, self.generator.config.grid, self.image_size
        )
        original = square(picture, self.image_size)
        kept = Kept(self.encode([original]).expand(len(seeds), -1), ~redraw_GN)
        pictures = self.pictures(self.draw([prompt] * len(seeds), seeds, kept=kept, **options))
        if raw:
            return pictures
        pairs = zip(pictures, masks, strict=True)
        return [paste(drawn, original, mask_YX) for drawn, mask_YX in pairs]

    def caption(
        self, image: Picture, lang: str = "zh", n: int = 1, **options: Unpack[CaptionOptions]
    ) -> list[Caption]:
        """Describe a picture `n` times, in tokens of the language alone.

        Raises:
            ImageError: the picture cannot be read.
            TextError: an unknown language.
            SettingError: a setting outside its range.
        """
        settings = caption_settings(n, **options)
        language_id = self.text_tokenizer.language_id(lang)
        image_ids_1N, foreign_V = self.encode([image]), self.foreign_tokens(lang)
        texts = caption_texts(self.generator, image_ids_1N, language_id, settings, foreign_V)
        image_ids_BN = image_ids_1N.expand(len(texts), -1)
        log_prob_B = caption_scores(self.generator, image_ids_BN, [language_id] * len(texts), texts)
        least = self.model.believed_from
        return [
            Caption(self.text_tokenizer.decode(text), log_prob, least is None or log_prob >= least)
            for text, log_prob in zip(texts, log_prob_B.tolist(), strict=True)
        ]

    def foreign_tokens(self, lang: str) -> Tensor:
        """Return foreign_V, True on the tokens that a caption in this language must not have."""
        foreign_V = torch.zeros(len(self.text_tokenizer), dtype=torch.bool)
        foreign_V[self.text_tokenizer.foreign_ids(lang, self.model.latin_words)] = True
        return foreign_V

    def score(self, image: Picture, text: str, lang: str | None = None) -> Score:
        """Return how likely the picture is given the text, and the text given the picture.

        Args:
            lang: language of the text; None looks at its characters.

        Raises:
            ImageError, TextError: as `caption` and `generate` do.
        """
        ids = self.encode_text(text)
        self._warn_of_unknown(text)
        language_id = self.text_tokenizer.language_id(
            guess_language(text) if lang is None else lang
        )
        return score_pair(
            self.generator, self.text_tokenizer, self.encode([image]), ids, language_id
        )

    def word_map(self, image: Picture, text: str) -> list[tuple[str, list[float]]]:
        """Return each word of a text with how much it helps every image token, in nats.

        That is log P(z_k | text, z_<k) less the same with the word hidden.

        Raises:
            ImageError, TextError: as `caption` and `generate` do.
        """
        ids = self.encode_text(text)
        places = self.text_tokenizer.words(self.text_tokenizer.tidy(text))
        gains_WN = word_gains(self.generator, ids, places, self.encode([image])[0])
        names = [self.text_tokenizer.decode(ids[place.start : place.stop]) for place in places]
        return list(zip(names, gains_WN.tolist(), strict=True))

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

    def _unfinished(self, image_ids_Bk: Tensor, below_BN: Tensor | None) -> list[Image.Image]:
        """Return the pictures of the first rows of tokens; below white, or what other tokens have there."""
        grid = self.generator.config.grid
        B, k = image_ids_Bk.shape
        if below_BN is not None:
            return self.decode(torch.cat([image_ids_Bk, below_BN[:, k:]], dim=1))
        # Some code has to stand below; the last row's make the least of an edge.
        missing = image_ids_Bk[:, -grid.width :].repeat(1, grid.height - k // grid.width)
        pictures = self.decode(torch.cat([image_ids_Bk, missing], dim=1))
        done = self.image_size * k // grid.num_cells
        for picture in pictures:
            picture.paste("white", (0, done, self.image_size, self.image_size))
        return pictures

    def pictures(self, drawn: Drawn) -> list[Image.Image]:
        """Return the pictures of what was drawn: by the reconstructor where states were kept."""
        if drawn.states_BNC is None:
            return self.decode(drawn.image_ids_BN)
        reconstructor, grid = self.model.reconstructor, self.generator.config.grid
        assert reconstructor is not None
        with torch.inference_mode():
            raws = [reconstructor(states_NC[None], grid) for states_NC in drawn.states_BNC]
            return [to_pictures(self.image_tokenizer.to_image(raw))[0] for raw in raws]

    def unknown_characters(self, text: str) -> str:
        """Return the characters of a prompt that the model knows by their bytes alone, each once."""
        return "".join(self.text_tokenizer.in_bytes(self.text_tokenizer.tidy(text)))

    def _warn_of_unknown(self, text: str) -> None:
        if unknown := self.unknown_characters(text):
            message = f"these characters are not in the model's vocabulary: {unknown}"
            warnings.warn(message, VilgWarning, stacklevel=4)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a text, `text.tidy` before.

        Raises:
            TextError: an empty text, one of unknown characters only, or one longer than the model reads.
        """
        if not isinstance(text, str):
            raise TextError(f"a {type(text).__name__} is no text: give one text, in quotes")
        text = self.text_tokenizer.tidy(text)
        ids = self.text_tokenizer.encode(text)
        # The caption of an image needs one place more, for its language or end token.
        longest = self.generator.config.max_text - 1
        if len(ids) > longest:
            raise TextError(
                f"the text has {len(ids)} tokens and this model reads {longest}: shorten it"
            )
        return ids

    def settings(self, **changes: Unpack[Changes]) -> SamplingConfig:
        """Return the model's own settings with those replaced that are given.

        Raises:
            SettingError: one outside its range, or a decoder that this model has not.
        """
        settings = settings_with(self.model.sampling, **changes)
        require(
            settings.decoder is Decoder.TWO_STAGE or self.model.reconstructor is not None,
            "this model has no end-to-end decoder: train one, or take the two-stage decoder",
        )
        return settings


__all__ = ["LANGUAGES", "DrawOptions", "Score", "SettingError", "Vilg"]
