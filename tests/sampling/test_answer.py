"""Answers against the model without caches, and choices against their likelihoods one by one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.sampling.test_decode import EN, EOS, ZH, toy_generator, toy_images, uncached
from vilg.api import Vilg
from vilg.errors import SettingError
from vilg.model.folder import Model
from vilg.model.generator import Generator, image_to_text_layout, image_to_text_log_probs
from vilg.sampling.texts import generate_texts, search_text
from vilg.text import TextError

QUESTIONS = [[6, 9, 8], [7], [12, 13, 6, 6, 9, 10, 11], [6, 9, 8], [13, 7]]


def naive_answer(generator: Generator, image: Tensor, question: list[int], lang: int) -> list[int]:
    """Write the likeliest token each time; all is read anew for each, unpadded."""
    answer: list[int] = []
    while len(answer) < 7:
        layout = image_to_text_layout(
            len(answer) + 1, generator.config.grid, question_length=len(question)
        )
        ids_1T = torch.tensor([[*image.tolist(), *question, lang, *answer]])
        states = uncached(generator, layout, ids_1T, torch.ones(ids_1T.shape, dtype=torch.bool))
        token = int(generator.text_logits(states[0, -1]).argmax())
        if token == EOS:
            break
        answer.append(token)
    return answer


def test_answers_are_those_of_the_model_without_caches() -> None:
    """Together, whatever the longest question is, alone, and by a beam of one."""
    generator = toy_generator()
    generator.text_head.bias[EOS] += 2
    images, languages = toy_images(generator, 5), [ZH, EN, EN, ZH, ZH]
    expected = [
        naive_answer(generator, image, question, lang)
        for image, question, lang in zip(images, QUESTIONS, languages, strict=True)
    ]
    assert len({len(answer) for answer in expected}) > 1 and len(set(map(tuple, expected))) > 2
    assert generate_texts(generator, images, languages, range(5), questions=QUESTIONS) == expected
    for i, answer in enumerate(expected):
        alone = images[i : i + 1], [languages[i]], [0]
        assert generate_texts(generator, *alone, questions=[QUESTIONS[i]]) == [answer]
        searched = search_text(generator, images[i], languages[i], 1, question=QUESTIONS[i])
        assert searched == [answer]


def test_an_answer_depends_on_its_question() -> None:
    generator = toy_generator()
    image = toy_images(generator, 1)
    found = generate_texts(generator, image.repeat(5, 1), [EN] * 5, range(5), questions=QUESTIONS)
    assert found[0] == found[3] and found[0] != found[1]


@pytest.fixture(scope="module")
def model(toy_model: Model) -> Vilg:
    return Vilg(toy_model)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.effect_noise((32, 32), 90).convert("RGB")


def log_prob(model: Vilg, picture: Image.Image, question: str, answer: str, lang: str) -> float:
    found, _ = image_to_text_log_probs(
        model.generator,
        model.encode([picture]),
        [model.text_tokenizer.language_id(lang)],
        [model.encode_text(answer)],
        [model.encode_text(question)],
    )
    return float(found.sum())


def test_choices_come_by_the_likelihood_of_the_whole_answer(
    model: Vilg, picture: Image.Image
) -> None:
    """More of them than are looked at together, short ones and long ones."""
    colours, things = (
        ("red", "green", "black", "grey"),
        ("apple", "pear", "car", "dog", "moon on the left"),
    )
    choices = [
        *things,
        *colours,
        *(f"{c} {t}" for c in colours for t in things),
        *(f"{c} or {t}" for c in colours for t in things),
    ]
    assert len(choices) > 32
    found = model.answer(picture, "what is it?", n=len(choices), choices=choices)
    values = {each: log_prob(model, picture, "what is it?", each, "en") for each in choices}
    assert sorted(found) == sorted(choices)
    assert [answer.log_prob for answer in found] == pytest.approx(
        sorted(values.values(), reverse=True), abs=1e-3
    )
    for answer in found:
        assert answer.log_prob == pytest.approx(values[str(answer)], abs=1e-3)
    assert model.answer(picture, "what is it?", choices=choices) == found[:1]


def test_several_answers_are_likeliest_first_and_stay_in_the_language_of_the_question(
    model: Vilg, picture: Image.Image
) -> None:
    for question, lang in (("what is it?", "en"), ("这是什么？", "zh")):
        found = model.answer(picture, question, n=3)
        values = [answer.log_prob for answer in found]
        assert len(found) == 3 and values == sorted(values, reverse=True)
        assert found == model.answer(picture, question, lang, 3)
        foreign = model.foreign_tokens[lang]
        assert not any(
            foreign[id] for answer in found for id in model.text_tokenizer.encode(answer)
        )
    in_chinese = model.answer(picture, "what is it?", "zh")
    assert in_chinese != model.answer(picture, "what is it?")


def test_questions_in_both_languages_are_answered_together(
    model: Vilg, picture: Image.Image
) -> None:
    asked = ["what is it?", "这是什么？", "what colour is the small thing on the left?"]
    image_ids_BN = model.encode([picture]).expand(3, -1)
    found = model.answer_each(image_ids_BN, asked)
    for question, answer in zip(asked, found, strict=True):
        (alone,) = model.answer(picture, question)
        assert answer == alone and answer.log_prob == pytest.approx(alone.log_prob, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"question": ""}, TextError, "empty"),
        ({"question": "red " * 40}, TextError, "tokens and this model reads 23"),
        ({"lang": "fr"}, TextError, "'fr' is unknown"),
        ({"n": 0}, SettingError, "answers must be at least 1"),
        ({"n": 300}, SettingError, "at most 256"),
        ({"choices": "red"}, SettingError, "a list of texts"),
        ({"choices": ["red"]}, SettingError, "at least two choices"),
        ({"choices": ["red", 3]}, SettingError, "a list of texts"),
        ({"choices": ["red", "Red "]}, TextError, "'red' and 'Red ' are the same"),
        ({"choices": ["red", "red"]}, TextError, "'red' and 'red' are the same"),
        ({"choices": ["red", ""]}, TextError, "empty"),
        ({"choices": ["red", "blue"], "n": 3}, SettingError, "2 choices, so at most 2 answers"),
    ],
)
def test_what_cannot_be_asked_is_said(
    model: Vilg, picture: Image.Image, options: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        model.answer(picture, **({"question": "what is it?"} | options))


def test_a_model_knows_what_it_was_trained_to_answer(
    toy_model: Model, picture: Image.Image
) -> None:
    with pytest.raises(SettingError, match="not trained on questions"):
        Vilg(replace(toy_model, answer_languages=())).answer(picture, "what is it?")
    english = Vilg(replace(toy_model, answer_languages=("en",)))
    with pytest.raises(SettingError, match="to answer in en only, not in zh"):
        english.answer(picture, "这是什么？")
    assert english.answer(picture, "这是什么？", "en")
