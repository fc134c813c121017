"""The tree of names gives what scoring each name alone gives."""

import pytest
import torch

from vilg.api import Vilg
from vilg.model.folder import Model
from vilg.model.generator import image_to_text_log_probs
from vilg.shipped import names as ranking
from vilg.shipped.exact_match import COMMAS
from vilg.shipped.names import NameScorer, candidate_names, score_top1
from vilg.shipped.samples import Splits

from .conftest import toy_samples


@pytest.mark.parametrize("names_at_once", [32, 3])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_scores_equal_those_of_each_name_alone(
    toy_model: Model, lang: str, names_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_NAMES_AT_ONCE", names_at_once)
    tokenizer, generator = toy_model.text_tokenizer, toy_model.generator
    assert tokenizer is not None
    assert generator is not None
    names = candidate_names(toy_samples(), lang)
    texts = [tokenizer.encode(name + COMMAS[lang]) for name in names]
    language_id = tokenizer.language_id(lang)
    images = torch.arange(3 * 16).view(3, 16) * 7 % 32
    found = NameScorer(generator, language_id, texts).log_probs(images)

    for row, image in zip(found, images, strict=True):
        for score, text in zip(row, texts, strict=True):
            alone, _ = image_to_text_log_probs(generator, image[None], [language_id], [text])
            expected = alone[0, : len(text)].sum()  # without the end token
            assert float(score) == pytest.approx(float(expected), abs=1e-4)
    assert found.std(dim=1).min() > 0.1  # the names do differ


def test_parts_do_not_leak_into_each_other(toy_model: Model) -> None:
    generator = toy_model.generator
    assert generator is not None
    images = torch.arange(16)[None]
    scorer = NameScorer(generator, 5, [[300, 301, 302], [300, 303, 302], [304, 302]])
    alone = NameScorer(generator, 5, [[300, 303, 302]])
    torch.testing.assert_close(
        scorer.log_probs(images)[:, 1], alone.log_probs(images)[:, 0], atol=1e-4, rtol=0
    )


def test_the_names_it_knows_by_heart_win(
    memoriser: Vilg, two_pairs: Splits, two_images: dict[str, torch.Tensor]
) -> None:
    scores = score_top1(memoriser, two_pairs, two_images, num_pictures=2)
    swapped = {"train": two_images["train"].flip(0)}
    wrong = score_top1(memoriser, two_pairs, swapped, num_pictures=2)
    first = score_top1(memoriser, two_pairs, two_images, num_pictures=1)
    for lang in ("zh", "en"):
        assert scores[lang]["num_names"] == 8
        assert scores[lang]["baseline"] == 1 / 8
        assert scores[lang]["splits"]["train"] == {"num": 2, "top1": 1}
        assert wrong[lang]["splits"]["train"] == {"num": 2, "top1": 0}
        assert first[lang]["splits"]["train"] == {"num": 1, "top1": 1}
