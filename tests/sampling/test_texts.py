"""Beam search against looking at every text there is."""

import dataclasses
import itertools
import re
from typing import Any

import pytest
import torch
from PIL import Image

from tests.sampling.test_decode import EN, EOS, ZH, V, text_logits, toy_generator, toy_images
from vilg.api import Vilg
from vilg.model.defaults import SamplingConfig
from vilg.model.folder import Model
from vilg.model.generator import Generator, image_to_text_log_probs, text_to_image_log_probs
from vilg.sampling.rank import caption_scores, image_scores
from vilg.sampling.texts import generate_texts, search_text
from vilg.text import TextTokenizer


def mean_log_prob(generator: Generator, image: torch.Tensor, text: list[int], cut: bool) -> float:
    """Return the mean log probability of a text, its end token among them unless it was cut off."""
    log_probs, valid = image_to_text_log_probs(generator, image[None], [ZH], [text])
    values = log_probs[0][valid[0]]
    return float((values[:-1] if cut else values).mean())


def sharp() -> Generator:
    generator = toy_generator()
    generator.text_head.bias[EOS] += 2
    return generator


def test_a_beam_as_wide_as_all_texts_finds_the_likeliest() -> None:
    """Of two tokens at most; a text of two has no room for its end, and is cut off."""
    generator = sharp()
    words = [i for i in range(V) if i != EOS]
    texts = [list(x) for n in range(3) for x in itertools.product(words, repeat=n)]
    for image in toy_images(generator, 2):
        log_probs, valid = image_to_text_log_probs(
            generator, image.expand(len(texts), -1), [ZH] * len(texts), texts
        )
        values = [
            float(row[mask][: 2 if len(text) == 2 else None].mean())
            for row, mask, text in zip(log_probs, valid, texts, strict=True)
        ]
        order = sorted(range(len(texts)), key=lambda i: -values[i])
        found = search_text(generator, image, ZH, 600, max_length=2)
        assert found[:5] == [texts[i] for i in order[:5]]
        assert len(found) == len(texts)


def test_a_beam_of_one_is_the_greedy_text() -> None:
    generator = sharp()
    images = toy_images(generator, 8)
    greedy = generate_texts(generator, images, [EN] * 8, range(8))
    assert [search_text(generator, image, EN, 1)[0] for image in images] == greedy
    assert len({len(text) for text in greedy}) >= 2


def naive_beam(generator: Generator, image: torch.Tensor, beam: int) -> list[list[int]]:
    """Search for texts of 7 tokens at most, uncached, one text at a time."""
    going: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, 8):
        longer = [
            (value + float(log_prob), [*text, id])
            for value, text in going
            for id, log_prob in enumerate(text_logits(generator, image, ZH, text).log_softmax(0))
        ]
        longer.sort(reverse=True)
        ended += [(value / length, text[:-1]) for value, text in longer[:beam] if text[-1] == EOS]
        going = [(value, text) for value, text in longer if text[-1] != EOS][:beam]
        if len(ended) >= beam:
            break
    else:
        ended += [(value / length, text) for value, text in going]
    return [text for _, text in sorted(ended, reverse=True)[:beam]]


@pytest.mark.parametrize("beam", [2, 3, 6])
def test_a_beam_is_the_naive_search(beam: int) -> None:
    generator = sharp()
    for image in toy_images(generator, 6):
        assert search_text(generator, image, ZH, beam) == naive_beam(generator, image, beam)


def test_a_wider_beam_is_never_less_likely_here() -> None:
    generator = sharp()
    images = toy_images(generator, 6)
    for image in images:
        best = [
            mean_log_prob(generator, image, text, cut=len(text) == 7)
            for text in (search_text(generator, image, ZH, beam)[0] for beam in (1, 12))
        ]
        assert best[1] >= best[0] - 1e-5


@pytest.mark.parametrize("max_length", [1, 3])
def test_a_beam_without_an_end_is_cut(max_length: int) -> None:
    generator = toy_generator()
    generator.text_head.bias[EOS] = -1000
    (image,) = toy_images(generator, 1)
    found = search_text(generator, image, ZH, 4, max_length=max_length)
    assert {len(text) for text in found} == {max_length}


def test_captions_of_one_image_are_drawn_as_if_it_were_read_for_each() -> None:
    generator = sharp()
    images = toy_images(generator, 2)
    seeds = [3, 1, 4, 1, 5, 9]
    together = generate_texts(
        generator, images, [ZH, EN], seeds, words=SamplingConfig(temperature=1)
    )
    each = generate_texts(
        generator,
        images.repeat_interleave(3, 0),
        [ZH] * 3 + [EN] * 3,
        seeds,
        words=SamplingConfig(temperature=1),
    )
    assert together == each


def test_ranks_are_mean_log_probabilities() -> None:
    generator = toy_generator()
    images = toy_images(generator, 40)
    texts = [[6 + i % 5] * (1 + i % 4) for i in range(40)]
    found = caption_scores(generator, images, [ZH] * 40, texts)
    for i in (0, 7, 33, 39):
        expected = mean_log_prob(generator, images[i], texts[i], cut=False)
        assert abs(float(found[i]) - expected) < 1e-5
    by_image = image_scores(generator, texts, images)
    assert by_image.shape == (40,)
    for i in (0, 7, 33, 39):
        log_probs_1N = text_to_image_log_probs(generator, [texts[i]], images[i : i + 1])
        assert abs(float(by_image[i]) - sum(log_probs_1N[0].tolist()) / 12) < 1e-5


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("how", [{}, {"beam": 3}, {"temperature": 3.0}, {"best_of": 3}])
def test_captions_stay_in_their_language(toy_model: Model, lang: str, how: dict[str, Any]) -> None:
    """Random weights would write any token; two in three of the vocabulary are foreign to either language."""
    model = Vilg(dataclasses.replace(toy_model, latin_words=("noto",)))
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    captions = model.caption(picture, lang, 2 if how else 1, **how)
    assert all(captions)
    for caption in captions:
        for piece in model.text_tokenizer.token_strings(model.text_tokenizer.encode(caption)):
            letters = re.sub("[^a-z]", "", piece)
            if lang == "zh":
                assert len(letters) < 2 or piece == "noto" or piece.startswith("<0x")
            else:
                assert not re.search("[\u3400-\u9fff，。：！？（）、《》]", piece)


def test_what_is_foreign_is_read_off_the_vocabulary() -> None:
    words = TextTokenizer("苹果，,o1", ["▁apple", "noto", "▁noto", "▁o"])
    pieces = words.token_strings(range(len(words)))
    zh = {pieces[i] for i in words.foreign_ids("zh", words.latin_words(["苹果，noto"]))}
    en = {pieces[i] for i in words.foreign_ids("en")}
    assert {"▁apple", "▁noto", ","} <= zh and not zh & {"noto", "苹", "，", "o", "▁o", "1", "[EOS]"}
    assert words.latin_words(["苹果,1"]) == (",",)
    assert {"苹", "果", "，"} <= en and not en & {",", "▁apple", "noto", "▁noto", "o", "1", "[EOS]"}
