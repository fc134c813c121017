"""How a picture is captioned: what may be asked for together, and which search answers it.

Shape letters: N image tokens.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self, TypedDict

import torch
from torch import Tensor

from vilg.errors import require
from vilg.model.defaults import SamplingConfig
from vilg.model.folder import Model
from vilg.model.generator import Generator
from vilg.sampling.batches import LARGEST_BATCH, slices
from vilg.sampling.candidates import best
from vilg.sampling.rank import caption_scores, image_scores
from vilg.sampling.settings import count, number, seeds_from, settings_with, whole_number
from vilg.sampling.texts import USUAL_BEAM, WIDEST_BEAM, generate_texts, search_text
from vilg.text import LANGUAGES, TextTokenizer


class Caption(str):
    """A caption of one line, and how likely its model finds it.

    Attributes:
        log_prob: mean log P(t_k | z, t_<k) of its tokens, the end token among them, in nats.
        is_believed: whether that is as much as the model has for pictures that it knows
            (`ModelConfig.believed_from`).
    """

    log_prob: float
    is_believed: bool

    def __new__(cls, text: str, log_prob: float = 0.0, is_believed: bool = True) -> Self:
        caption = super().__new__(cls, text)
        caption.log_prob, caption.is_believed = log_prob, is_believed
        return caption


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """What `caption_settings` made of what was asked for.

    Attributes:
        n: how many captions are wanted.
        beam: how many are looked for at a time; None draws one a seed, or takes the likeliest word each
            time at temperature 0.
        seeds: of the captions that are drawn.
        is_ranked: whether those that make the picture likeliest are wanted, best first.
        words: how words are drawn.
    """

    n: int
    beam: int | None
    seeds: Sequence[int]
    is_ranked: bool
    words: SamplingConfig


class CaptionOptions(TypedDict, total=False):
    """How captions are found.

    Attributes:
        seed: of drawn captions; caption i has seed `seed + i`; None is 0.
        temperature: draw the words, 1 as the model has them; None takes the likeliest word each
            time for one caption, and a beam's for several.
        top_k, top_p: of drawn words; None leaves nothing out.
        beam: how many captions are looked for at a time; None is 1 for one caption and at least 4
            for several.
        best_of: draw this many captions, at temperature 1 unless told otherwise, and return the `n`
            that make the picture likeliest; 1 compares none.
    """

    seed: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    beam: int | None
    best_of: int


def caption_settings(
    n: int,
    *,
    seed: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    beam: int | None = None,
    best_of: int = 1,
) -> CaptionSettings:
    """Return what the options of `Vilg.caption` ask for together."""
    n, best_of = count(n, "captions"), count(best_of, "candidates")
    if temperature is not None:
        temperature = number(temperature, "temperature")
    is_drawn = temperature is not None or best_of > 1
    if beam is not None:
        beam = whole_number(beam, "the beam")
        require(beam >= n, f"the beam must be at least {n}, the captions, not {beam}")
        require(best_of == 1, "best-of draws captions: leave the beam out")
        require(
            temperature is top_k is top_p is None,
            "a beam looks for the likeliest captions: leave temperature, top-k and top-p out",
        )
    require(
        best_of == 1 or best_of >= n, f"best-of must be at least {n}, the captions, not {best_of}"
    )
    require(
        is_drawn or (top_k is None and top_p is None),
        "top-k and top-p are for drawn captions: set a temperature",
    )
    require(
        is_drawn or seed is None,
        "a seed is for drawn captions: set a temperature, or leave it out for the likeliest",
    )
    require(
        temperature != 0 or max(n, best_of) == 1,
        "temperature 0 has one caption to give: leave it out, or set it above 0",
    )
    if not is_drawn and beam is None and n > 1:
        beam = max(n, USUAL_BEAM)
    require(
        beam is None or beam <= WIDEST_BEAM,
        f"a beam has at most {WIDEST_BEAM} captions, not {beam}",
    )
    # The model's own settings are for pictures.
    words = settings_with(
        SamplingConfig(),
        temperature=temperature if temperature is not None else float(is_drawn),
        top_k=top_k,
        top_p=top_p,
    )
    seeds = seeds_from(seed if seed is not None else 0, max(n, best_of), "captions")
    return CaptionSettings(n=n, beam=beam, seeds=seeds, is_ranked=best_of > 1, words=words)


def captions(
    model: Model,
    generator: Generator,
    image_ids_1N: Tensor,
    language_id: int,
    settings: CaptionSettings,
    foreign_V: Tensor,
) -> list[Caption]:
    """Return the captions of a picture, the likeliest or best first where they are compared.

    Args:
        generator: the model's, made ready for decoding.
        foreign_V: True on tokens that must not be written.
    """
    assert model.text_tokenizer is not None
    n, least = settings.n, model.believed_from
    if settings.beam is not None:
        texts = search_text(
            generator, image_ids_1N[0], language_id, settings.beam, foreign_V=foreign_V
        )[:n]
    else:
        texts = [
            text
            for part in slices(len(settings.seeds), LARGEST_BATCH)
            for text in generate_texts(
                generator,
                image_ids_1N,
                [language_id],
                settings.seeds[part],
                settings.words,
                foreign_V=foreign_V,
            )
        ]
    image_ids_BN = image_ids_1N.expand(len(texts), -1)
    if settings.is_ranked:
        texts = [texts[i] for i in best(image_scores(generator, texts, image_ids_BN)[None], n)]
    scores_B = caption_scores(
        generator, image_ids_BN[: len(texts)], [language_id] * len(texts), texts
    )
    # A model may write any byte, a line break too.
    lines = [" ".join(model.text_tokenizer.decode(text).split()) for text in texts]
    return [
        Caption(line, log_prob, least is None or log_prob >= least)
        for line, log_prob in zip(lines, scores_B.cpu().tolist(), strict=True)
    ]


def foreign_tokens(tokenizer: TextTokenizer, latin_words: Collection[str]) -> dict[str, Tensor]:
    """Return for each language foreign_V, True on the tokens that no caption in it may have."""
    ids = torch.arange(len(tokenizer))
    foreign = {lang: tokenizer.foreign_ids(lang, latin_words) for lang in LANGUAGES}
    return {lang: torch.isin(ids, torch.tensor(foreign[lang])) for lang in LANGUAGES}
