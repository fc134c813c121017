"""Shuffling, comparing and averaging likelihoods."""

import numpy as np
import pytest
import torch

from vilg.api import Vilg
from vilg.model.folder import Model
from vilg.model.generator import image_to_text_log_probs, text_to_image_log_probs
from vilg.randomness import integers, shuffle_within
from vilg.shipped.likelihoods import likelihoods, score_likelihoods, wins
from vilg.shipped.samples import Splits

from .conftest import make_sample


@pytest.mark.parametrize("seed", range(5))
def test_shuffling_moves_everyone_and_stays_inside_the_style(seed: int) -> None:
    kinds = [f"style {i * i % 7 % 4}" for i in range(50)]
    positions, given = shuffle_within(kinds, seed)
    assert positions == list(range(50))
    assert sorted(given) == positions
    assert all(i != j and kinds[i] == kinds[j] for i, j in zip(positions, given, strict=True))


def test_shuffling_depends_on_the_seed_and_leaves_a_single_one_out() -> None:
    kinds = ["a"] * 20 + ["lonely"]
    assert shuffle_within(kinds, 0) != shuffle_within(kinds, 1)
    assert shuffle_within(kinds, 0) == shuffle_within(kinds, 0)
    assert shuffle_within(kinds, 0)[0] == list(range(20))
    assert shuffle_within(["lonely"], 0) == ([], [])


def test_a_tie_counts_half() -> None:
    own, other = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-2.0, -2.0, -2.0])
    assert wins(own, other).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_likelihoods_sum_and_average_over_tokens(toy_model: Model, lang: str) -> None:
    generator, tokenizer = toy_model.generator, toy_model.text_tokenizer
    assert generator is not None
    assert tokenizer is not None
    samples = [make_sample(3, "noto"), make_sample(6, "flat")]
    texts = [tokenizer.encode(sample.captions[lang][0]) for sample in samples]
    assert len(texts[0]) != len(texts[1])
    language_id = tokenizer.language_id(lang)
    images = torch.arange(32).view(2, 16) * 5 % 32
    found = likelihoods(generator, images, language_id, texts, "test")

    nll = {"image_given_text": 0.0, "text_given_image": 0.0}
    for i, text in enumerate(texts):
        image_1N = text_to_image_log_probs(generator, [text], images[i : i + 1])
        text_1M, _ = image_to_text_log_probs(generator, images[i : i + 1], [language_id], [text])
        assert text_1M.shape == (1, len(text) + 1)  # the end token counts
        assert float(found.image_S[i]) == pytest.approx(float(image_1N.sum()), abs=1e-3)
        assert float(found.text_S[i]) == pytest.approx(float(text_1M.sum()), abs=1e-3)
        nll["image_given_text"] -= float(image_1N.sum()) / 32
        nll["text_given_image"] -= float(text_1M.sum()) / (len(texts[0]) + len(texts[1]) + 2)
    assert found.nll_per_token() == pytest.approx(nll, abs=1e-4)


def test_pairs_known_by_heart_always_win(
    memoriser: Vilg, two_pairs: Splits, two_images: dict[str, torch.Tensor]
) -> None:
    scores = score_likelihoods(memoriser, two_pairs, two_images, num_pairs=500, seed=0)
    matched = scores["matched_above_shuffled"]
    assert matched["zh"] == {"num": 2, "image_given_text": 1, "text_given_image": 1}
    assert matched["all"] == {"num": 4, "image_given_text": 1, "text_given_image": 1}
    swapped = {"train": two_images["train"].flip(0)}
    wrong = score_likelihoods(memoriser, two_pairs, swapped, num_pairs=500, seed=0)
    assert wrong["matched_above_shuffled"]["all"] == {
        "num": 4,
        "image_given_text": 0,
        "text_given_image": 0,
    }
    right_nll, wrong_nll = scores["nll_per_token"]["train"], wrong["nll_per_token"]["train"]
    for lang in ("zh", "en"):
        for direction in ("image_given_text", "text_given_image"):
            assert right_nll[lang][direction] < 0.1
            assert right_nll[lang][direction] < wrong_nll[lang][direction]


def test_shares_are_those_of_each_pair_alone(toy_model: Model) -> None:
    vilg = Vilg(toy_model)
    tokenizer = vilg.text_tokenizer
    samples = [make_sample(i, style) for i in range(8) for style in ("flat", "noto")]
    images_SN = torch.from_numpy(integers(0, "images", 32, np.arange(16 * 16))).view(16, 16)
    splits = Splits(samples, {"train": samples}, {"train": samples})
    scores = score_likelihoods(vilg, splits, {"train": images_SN}, num_pairs=16, seed=0)
    for lang in ("zh", "en"):
        language_id = tokenizer.language_id(lang)
        texts = [tokenizer.encode(sample.captions[lang][0]) for sample in samples]

        def image_score(i: int, j: int, texts: list[list[int]] = texts) -> float:
            image_1N = images_SN[i : i + 1]
            return float(text_to_image_log_probs(vilg.generator, [texts[j]], image_1N).sum())

        def text_score(
            i: int, j: int, texts: list[list[int]] = texts, language_id: int = language_id
        ) -> float:
            image_1N, text = images_SN[i : i + 1], [texts[j]]
            scored = image_to_text_log_probs(vilg.generator, image_1N, [language_id], text)
            return float(scored[0].sum())

        # Only pairs that rounding cannot turn over count for certain.
        pairs = list(
            zip(*shuffle_within([sample.tags["style"] for sample in samples], seed=0), strict=True)
        )
        found = scores["matched_above_shuffled"][lang]
        for direction, margins in {
            "image_given_text": [image_score(i, i) - image_score(i, j) for i, j in pairs],
            "text_given_image": [text_score(j, j) - text_score(i, j) for i, j in pairs],
        }.items():
            surely = sum(margin > 1e-3 for margin in margins)
            unsure = sum(abs(margin) <= 1e-3 for margin in margins)
            assert surely <= found[direction] * len(pairs) <= surely + unsure
            assert unsure < 2


def test_an_untrained_model_wins_about_half(toy_model: Model) -> None:
    samples = [make_sample(i % 8, style) for i in range(100) for style in ("flat", "noto")]
    images = {"train": torch.from_numpy(integers(0, "images", 32, np.arange(3200))).view(200, 16)}
    splits = Splits(samples, {"train": samples}, {"train": samples})
    scores = score_likelihoods(Vilg(toy_model), splits, images, num_pairs=150, seed=0)
    shares = scores["matched_above_shuffled"]["all"]
    assert shares["num"] == 300
    # Texts repeat, so pairs are not independent: five standard deviations of 150 coin tosses.
    assert shares["image_given_text"] == pytest.approx(0.5, abs=0.2)
    assert shares["text_given_image"] == pytest.approx(0.5, abs=0.2)


def test_without_two_pairs_of_a_style_there_is_no_share(
    memoriser: Vilg, two_images: dict[str, torch.Tensor]
) -> None:
    samples = [make_sample(1, "flat"), make_sample(1, "noto")]
    splits = Splits(samples, {"train": samples}, {"train": samples})
    scores = score_likelihoods(memoriser, splits, two_images, num_pairs=500, seed=0)
    assert scores["matched_above_shuffled"]["all"] == {
        "num": 0,
        "image_given_text": None,
        "text_given_image": None,
    }
