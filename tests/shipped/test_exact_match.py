"""Exact matches and the blind baseline, on cases done by hand."""

import torch

from vilg.api import Vilg
from vilg.shipped.exact_match import aspects, exact_match, most_frequent, score_captions
from vilg.shipped.samples import Splits

from .conftest import make_sample


def test_the_last_comma_parts_name_and_style() -> None:
    assert aspects("Red  Apple, 3D render", "en") == {
        "caption": "red apple, 3d render",
        "name": "red apple",
        "style": "3d render",
    }
    assert aspects("一，二，三维风格", "zh")["name"] == "一，二"
    assert aspects("no style", "en") == {"caption": "no style", "name": "no style", "style": ""}
    # Chinese captions have the Chinese comma.
    assert aspects("苹果, 三维风格", "zh")["style"] == ""


def test_caption_name_and_style_match_apart() -> None:
    truth = [aspects(f"{name}, flat", "en") for name in ("apple", "dog", "moon", "house")]
    written = ["apple, flat", "dog, noto", "sun, flat", "house flat"]
    matches = exact_match([aspects(text, "en") for text in written], truth)
    assert matches == {"caption": 1 / 4, "name": 2 / 4, "style": 2 / 4}


def test_the_most_frequent_is_counted_for_each_aspect_alone() -> None:
    train = ["dog, flat", "dog, noto", "cat, flat", "moon, flat", "moon, flat"]
    assert most_frequent(aspects(text, "en") for text in train) == {
        "caption": "moon, flat",
        "name": "dog",  # as frequent as moon, and earlier in the alphabet
        "style": "flat",
    }


def test_the_baseline_is_the_share_of_the_whole_split_that_equals_it(
    memoriser: Vilg, two_images: dict[str, torch.Tensor]
) -> None:
    train = [make_sample(concept, "flat") for concept in (1, 3, 3, 5)] + [make_sample(3, "noto")]
    unseen = [make_sample(3, "flat"), make_sample(2, "noto")]
    whole = {"train": train, "unseen": unseen}
    splits = Splits(train, whole, {"train": train[:2], "unseen": unseen})
    images = {"train": two_images["train"], "unseen": two_images["train"]}
    scores = score_captions(memoriser, splits, images)
    for lang in ("zh", "en"):
        seen, other = scores[lang]["train"], scores[lang]["unseen"]
        assert seen["all"]["num"] == 2
        assert seen["all"]["baseline"] == {"caption": 2 / 5, "name": 3 / 5, "style": 4 / 5}
        assert other["all"]["baseline"] == {"caption": 1 / 2, "name": 1 / 2, "style": 1 / 2}
        assert other["by_style"]["flat"]["baseline"]["caption"] == 1
        assert other["by_style"]["noto"]["baseline"]["style"] == 0


def test_a_model_that_knows_its_pairs_by_heart_matches_all(
    memoriser: Vilg, two_pairs: Splits, two_images: dict[str, torch.Tensor]
) -> None:
    scores = score_captions(memoriser, two_pairs, two_images)
    swapped = {"train": two_images["train"].flip(0)}
    wrong = score_captions(memoriser, two_pairs, swapped)
    for lang in ("zh", "en"):
        right = scores[lang]["train"]["all"]
        assert (right["caption"], right["name"], right["style"]) == (1, 1, 1)
        other = wrong[lang]["train"]["all"]
        assert (other["caption"], other["name"], other["style"]) == (0, 0, 1)
