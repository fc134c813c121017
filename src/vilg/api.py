"""The public face: pictures from words and words from pictures in a few lines.

from vilg import Vilg
m = Vilg.from_pretrained()
m.generate("green apple, 3D render", n=4, seed=7)[0].save("apple.png")
m.caption("apple.png", lang="zh")
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from PIL import Image
from torch import Tensor

from vilg.device import AUTO, HOST, choose_device, moved
from vilg.errors import SettingError, VilgWarning, require
from vilg.images import Picture
from vilg.model.defaults import SamplingConfig
from vilg.model.folder import Model, ModelError, find_model, load_model, save_model, weights_hash
from vilg.model.lora import merge_adapters
from vilg.sampling.answer import Answer, answers, chosen_answers, likeliest_answers
from vilg.sampling.candidates import by_model, by_ranker, draw_best
from vilg.sampling.describe import (
    Caption,
    CaptionOptions,
    caption_settings,
    captions,
    foreign_tokens,
)
from vilg.sampling.edit import Redrawn
from vilg.sampling.images import Drawn, Kept
from vilg.sampling.pixels import decode, encode, pictures_of, watching
from vilg.sampling.precision import Precision, choose_precision, prepared
from vilg.sampling.rank import Ranker
from vilg.sampling.score import Score, score_pair, word_gains
from vilg.sampling.settings import (
    Changes,
    DrawOptions,
    Preview,
    Progress,
    check_choices,
    check_drawing,
    count,
    seeds_from,
    settings_with,
)
from vilg.text import LANGUAGES, TextTokenizer, guess_language


class Vilg:
    """A trained model with its two tokenizers; copies and pickles of it make the weights ready anew.

    What a method cannot do is a `VilgError`: an `ImageError` of pictures, a `TextError` of prompts and
    languages, else a `SettingError`.

    Args:
        model: computes where its weights are.
        precision: how the generator's weights are multiplied; docs/benchmarks.md says what each costs.

    Raises:
        ModelError: an image tokenizer without a generator.
        SettingError, PrecisionError: a precision that is unknown, or that this processor or device cannot do.

    Attributes:
        device: where the model is, and so what methods return as tensors.
        generator: the model's, made ready for decoding; the model itself is left as it is.
        weights_hash: identifies the weights; None for a model that is not from a folder.
        foreign_tokens: foreign_V by language, True on tokens that a caption in it must not have.
    """

    def __init__(
        self,
        model: Model,
        weights_hash: str | None = None,
        precision: Precision | str | None = None,
    ):
        if model.generator is None or model.text_tokenizer is None:
            raise ModelError("an image tokenizer draws nothing: train a generator for it first")
        self.model = model
        self.device = model.generator.device
        self.precision = choose_precision(precision, self.device)
        self.generator = prepared(model.generator, self.precision)
        self.image_tokenizer = model.image_tokenizer
        self.text_tokenizer: TextTokenizer = model.text_tokenizer
        self.weights_hash = weights_hash
        foreign = foreign_tokens(model.text_tokenizer, model.latin_words)
        self.foreign_tokens = {lang: moved(x, self.device) for lang, x in foreign.items()}

    def __reduce__(self) -> tuple[Any, ...]:  # packed weights can be neither copied nor written
        return type(self), (self.model, self.weights_hash, self.precision)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: str | torch.device = AUTO,
        dtype: Precision | str | torch.dtype | None = None,
        lora: str | Path | Sequence[str | Path] = (),
    ) -> Self:
        """Load a folder, a hub id "owner/name", or, for None, the shipped model.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes an accelerator where there is one.
            dtype: the precision, by its word or as PyTorch calls it; None is bf16 on CUDA, else fp32.
            lora: adapters to merge into the weights, "ADAPTER" or "ADAPTER=WEIGHT" each.

        Raises:
            ModelError: nothing there, not a whole model, or an adapter of another one.
            DeviceError: no such device here.
            SettingError, PrecisionError: as the class does.
        """
        folder, place = find_model(model), choose_device(device)
        precision = choose_precision(dtype, place)
        # What the host multiplies in bf16 it lays out from the weights in single precision.
        is_rounded = precision is Precision.BF16 and place != HOST
        held = torch.bfloat16 if is_rounded else torch.float32
        loaded, mark = load_model(folder, device=place, dtype=held), weights_hash(folder)
        if lora:
            added = merge_adapters(loaded, [lora] if isinstance(lora, str | Path) else lora)
            mark = hashlib.sha256(f"{mark}\n{added}".encode()).hexdigest()[:16]
        return cls(loaded, mark, precision)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a folder that `from_pretrained` reads, in the precision of the model's files."""
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
        """
        seeds = seeds_from(seed, n, "pictures")
        return self.pictures(self.draw([prompt] * len(seeds), seeds, **options))

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        kept: Kept | None = None,
        **options: Unpack[DrawOptions],
    ) -> Drawn:
        """Draw the tokens of one picture a prompt and seed; for the end-to-end decoder its states too.

        Args:
            kept: tokens that stay, one row a picture. Candidates are then ranked by how likely they make
                the kept tokens behind them, unless `rank` is given or nothing is kept behind.
        """
        return Drawn.joined([*self.draw_each(prompts, seeds, kept=kept, **options)])

    def draw_each(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        kept: Kept | None = None,
        rank: Ranker | None = None,
        progress: Progress | None = None,
        preview: Preview | None = None,
        **changes: Unpack[Changes],
    ) -> Iterator[Drawn]:
        """Do as `draw` does, and yield some pictures at a time, as soon as they are drawn."""
        settings, told = self.settings(**changes), {"progress": progress, "preview": preview}
        seeds = check_drawing(prompts, seeds, settings, rank=rank, **told)
        texts = [self.encode_text(prompt) for prompt in prompts]
        self._warn_of_unknown("".join(dict.fromkeys(prompts)))
        num = len(prompts) * settings.best_of
        watch = watching(self.image_tokenizer, num, kept, progress, preview)
        if rank:
            score = by_ranker(rank, prompts, self.pictures)
        else:
            score = by_model(self.generator, texts, [self._language_id(x) for x in prompts])
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
        """
        part, seeds = Redrawn(mask, first_row, share), seeds_from(seed, n, "pictures")
        edit = part.edit(self.image_tokenizer, image, seeds)
        drawn = self.draw([prompt] * len(seeds), seeds, kept=edit.kept, **options)
        return self.pictures(drawn) if raw else list(edit.pasted(self.pictures(drawn)))

    def caption(
        self, image: Picture, lang: str | None = None, n: int = 1, **options: Unpack[CaptionOptions]
    ) -> list[Caption]:
        """Describe a picture `n` times, in tokens of the language alone.

        Args:
            lang: one that the model was trained on; None takes the first of them, "zh" where it was.
        """
        settings = caption_settings(n, **options)
        known = self.model.languages
        lang = known[0] if lang is None else lang
        require(
            lang in known or lang not in LANGUAGES,
            f"this model was trained on captions in {' and '.join(known)} only, not in {lang}",
        )
        language_id = self.text_tokenizer.language_id(lang)
        image_ids_1N, foreign_V = self.encode([image]), self.foreign_tokens[lang]
        return captions(self.model, self.generator, image_ids_1N, language_id, settings, foreign_V)

    def answer(
        self,
        image: Picture,
        question: str,
        lang: str | None = None,
        n: int = 1,
        *,
        choices: Sequence[str] | None = None,
    ) -> list[Answer]:
        """Answer a question about a picture, the likeliest answer first.

        Args:
            lang: of the answers, one that the model was trained to answer in; None is the question's own.
            n: how many answers are wanted.
            choices: all that may be answered; None lets the model write.
        """
        n, ids = count(n, "answers"), self.encode_text(question)
        lang = self.answer_language(question, lang)
        language_id = self.text_tokenizer.language_id(lang)
        self._warn_of_unknown(question, stacklevel=3)
        model, words, foreign_V = self.generator, self.text_tokenizer, self.foreign_tokens[lang]
        if choices is not None:
            check_choices(choices, n)
            texts = [self.encode_text(choice) for choice in choices]
            image_ids_1N = self.encode([image])
            return chosen_answers(model, image_ids_1N, ids, language_id, choices, texts)[:n]
        image_ids_1N = self.encode([image])
        if n == 1:
            return answers(model, words, image_ids_1N, [ids], [language_id], foreign_V[None])
        return likeliest_answers(model, words, image_ids_1N, ids, language_id, n, foreign_V)

    def answer_each(
        self, image_ids_BN: Tensor, questions: Sequence[str], lang: str | None = None
    ) -> list[Answer]:
        """Answer one question about each row of tokens (`encode`), as `answer` does."""
        langs = [self.answer_language(question, lang) for question in questions]
        return answers(
            self.generator,
            self.text_tokenizer,
            image_ids_BN,
            [self.encode_text(question) for question in questions],
            [self.text_tokenizer.language_id(each) for each in langs],
            torch.stack([self.foreign_tokens[each] for each in langs]),
        )

    def answer_language(self, question: str, lang: str | None = None) -> str:
        """Return the language that a question is answered in: its own unless told.

        Raises:
            SettingError: the model was not trained to answer in it, or not on questions at all.
        """
        known = self.model.answer_languages
        require(
            bool(known),
            "this model was not trained on questions: train one on pairs that have questions with answers",
        )
        lang = guess_language(question) if lang is None else lang
        require(
            lang in known or lang not in LANGUAGES,
            f"this model was trained to answer in {' and '.join(known)} only, not in {lang}",
        )
        return lang

    def score(self, image: Picture, text: str, lang: str | None = None) -> Score:
        """Return how likely the picture is given the text, and the text given the picture.

        Args:
            lang: language of the text; None looks at its characters.
        """
        ids, language_id = self.encode_text(text), self._language_id(text, lang)
        self._warn_of_unknown(text, stacklevel=3)
        image_ids_1N = self.encode([image])
        return score_pair(self.generator, self.text_tokenizer, image_ids_1N, ids, language_id)

    def word_map(self, image: Picture, text: str) -> list[tuple[str, list[float]]]:
        """Return each word of a text with how much it helps every image token, in nats.

        That is log P(z_k | text, z_<k) less the same with the word hidden.
        """
        self.encode_text(text)
        text, image_ids_N = self.text_tokenizer.tidy(text), self.encode([image])[0]
        return word_gains(self.generator, self.text_tokenizer, text, image_ids_N)

    def encode(self, images: Sequence[Picture]) -> Tensor:
        """Return image_ids_BN of pictures, centre-cropped and resized to the model's size, on `device`."""
        return encode(self.image_tokenizer, images)

    def decode(self, image_ids_BN: Tensor) -> list[Image.Image]:
        """Return the pictures of token rows."""
        return decode(self.image_tokenizer, image_ids_BN)

    def pictures(self, drawn: Drawn) -> list[Image.Image]:
        """Return the pictures of what was drawn: by the reconstructor where states were kept."""
        return pictures_of(self.model, drawn)

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a text; a caption needs one place more, for its language or end token."""
        return self.text_tokenizer.read(text, self.generator.config.max_text - 1)

    def _warn_of_unknown(self, text: str, stacklevel: int = 5) -> None:
        if unknown := self.text_tokenizer.unknown_characters(text):
            message = f"these characters are not in the model's vocabulary: {unknown}"
            warnings.warn(message, VilgWarning, stacklevel)

    def _language_id(self, text: str, lang: str | None = None) -> int:
        return self.text_tokenizer.language_id(guess_language(text) if lang is None else lang)

    def settings(self, **changes: Unpack[Changes]) -> SamplingConfig:
        """Return the model's own settings with those replaced that are given."""
        return settings_with(self.model.sampling, self.model.reconstructor is not None, **changes)


__all__ = ["LANGUAGES", "DrawOptions", "Score", "SettingError", "Vilg"]
