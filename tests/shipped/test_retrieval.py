"""Retrieval of drawings: ranks by hand, pictures for drawings, and the choice among candidates."""

import numpy as np
import pytest

from tests.shipped.conftest import toy_samples
from vilg.api import Vilg
from vilg.data.pictures import load_pictures
from vilg.evaluation.judge import Judge
from vilg.images import to_array
from vilg.randomness import shuffle_within
from vilg.sampling.candidates import candidate_seeds
from vilg.sampling.rank import caption_scores
from vilg.shipped import retrieval as drawing
from vilg.shipped.retrieval import Found, Gallery, galleries, score_drawing, together
from vilg.shipped.samples import Splits

FEATURES = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
GALLERY = Gallery(FEATURES, {"a": 0, "b": 1, "c": 2, "d": 3})


def test_a_rank_counts_those_that_are_nearer() -> None:
    made = np.array([[2.0, 0.1], [2.0, 0.1], [2.0, 0.1], [-5.0, 0.1]])
    assert GALLERY.ranks(made, ["a", "b", "d", "d"]).tolist() == [1, 2, 4, 1]


def test_one_as_near_is_nearer() -> None:
    twins = Gallery(FEATURES[[0, 0, 1]], {"a": 0, "b": 1, "c": 2})
    assert twins.ranks(FEATURES[:1], ["a"]).tolist() == [2]


def test_a_gallery_is_a_style(judge: Judge) -> None:
    samples = toy_samples()
    shelf = galleries(judge, samples, 32)
    assert {style: len(gallery.place) for style, gallery in shelf.items()} == {"flat": 8, "noto": 8}
    assert np.allclose(np.linalg.norm(shelf["flat"].features_GF, axis=1), 1)


def test_pictures_find_themselves_and_not_each_other(judge: Judge) -> None:
    """What the ceiling and the floor are made with, on drawings that are the pictures themselves."""
    samples = toy_samples()[:8]
    shelf, arrays = galleries(judge, samples, 32), load_pictures(samples, 32)
    own = drawing._ranks(judge, shelf, samples, samples, arrays, "")
    assert own.tolist() == [1] * 8
    i, j = shuffle_within([sample.tags["style"] for sample in samples], 0)
    owners = [samples[k] for k in i]
    other = drawing._ranks(judge, shelf, owners, [samples[k] for k in j], arrays[i], "")
    assert (other > 1).all()


def test_the_best_is_the_one_whose_caption_is_likeliest(
    memoriser: Vilg, two_pairs: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "NUM_CANDIDATES", (1, 6))
    samples = two_pairs.chosen["train"]
    found = drawing._draw_best(memoriser, samples, "zh", "")
    language = memoriser.text_tokenizer.language_id("zh")
    for i, sample in enumerate(samples):
        prompt = sample.captions["zh"][0]
        ids = memoriser.draw([prompt] * 6, candidate_seeds(i, 6)).image_ids_BN
        text = memoriser.encode_text(prompt)
        best = int(caption_scores(memoriser.generator, ids, [language] * 6, [text] * 6).argmax())
        for num, row in ((1, 0), (6, best)):
            (picture,) = memoriser.decode(ids[row : row + 1])
            assert np.array_equal(found[num][i], to_array(picture))


def test_shares_and_paired_gains() -> None:
    one, best = np.array([[1, 2, 9, 9]]), np.array([[1, 1, 4, 9]])
    assert drawing._shares(best) == {"top1": 0.5, "top5": 0.75}
    assert drawing._shares(best[:, :0]) == {"top1": None, "top5": None}
    gains = drawing._gains(best, one)
    assert gains["top1"]["mean"] == 0.25
    assert gains["top5"] == {"mean": 0.25, "standard_error": 0.25}


def test_a_picture_is_one_case_in_both_languages() -> None:
    """Two languages that gain alike are no surer than one; two that differ gain their mean."""
    zh = Found(np.array([[9, 9, 9, 9]]), {1: np.array([[1, 2, 9, 9]]), 4: np.array([[1, 1, 4, 9]])})
    en = Found(np.array([[1, 9, 9, 9]]), {1: np.array([[1, 2, 9, 9]]), 4: np.array([[1, 1, 9, 1]])})
    twice = together([zh, zh]).scores()
    assert twice == zh.scores()
    both = together([zh, en]).scores()
    assert both["floor"]["top1"] == 0.125
    assert both["best_of"]["4"]["top1"] == 0.625
    gain = both["best_of"]["4"]["gain"]["top1"]
    # Of the four pictures 0, 1, 0 and 1/2; as eight cases it would be 0.183.
    assert gain["mean"] == 0.375
    assert gain["standard_error"] == pytest.approx(0.2394, abs=1e-4)


def test_one_picture_has_no_standard_error() -> None:
    one = np.array([[1], [9]])
    assert drawing._gains(one, one)["top1"] == {"mean": 0.0, "standard_error": None}


def test_candidates_of_fewer_are_the_first_of_more(
    memoriser: Vilg, two_pairs: Splits, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that best of 3 of a run with 5 is best of 3 of a run with 3."""
    splits = Splits(toy_samples()[:8], two_pairs.whole, two_pairs.chosen)
    monkeypatch.setattr(drawing, "NUM_CANDIDATES", (1, 3))
    three = score_drawing(memoriser, judge, splits, 3, 0)
    monkeypatch.setattr(drawing, "NUM_CANDIDATES", (1, 3, 5))
    five = score_drawing(memoriser, judge, splits, 3, 0)
    for split in splits.chosen:
        more, fewer = five["splits"][split], three["splits"][split]
        assert more["ceiling"] == fewer["ceiling"]
        for lang in ("zh", "en", "both"):
            found = more[lang]["best_of"]
            assert {num: found[num] for num in ("1", "3")} == fewer[lang]["best_of"]
            assert found["1"]["gain"]["top1"]["mean"] == 0
