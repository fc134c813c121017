"""Counts of pairs, by hand."""

import json
from collections.abc import Mapping

import pytest

from vilg.data import stats
from vilg.data.pairs import Pair, Question, Reject
from vilg.data.stats import describe

ENGLISH_AND_CHINESE = {"zh": ("桃，扁平",), "en": ("peach",)}


def pair(
    id: str,
    captions: Mapping[str, tuple[str, ...]] = ENGLISH_AND_CHINESE,
    prompts: Mapping[str, tuple[str, ...]] | None = None,
    **tags: str,
) -> Pair:
    return Pair(id=id, place=id, picture=None, captions=captions, prompts=prompts or {}, tags=tags)


def test_pairs_are_counted_by_tags_and_splits() -> None:
    items = [
        pair("a", style="noto", group="food"),
        pair("b", style="flat", group="food"),
        Reject(place="line 3", reason="none"),
        pair("c", style="noto", group="drink", mood="calm"),
    ]
    counts = describe(items, {"train": ["a", "c"], "test": ["b", "elsewhere"]})
    assert (counts["pairs"], counts["rejects"]) == (3, 1)
    assert counts["split"] == {"test": 1, "train": 2}
    assert counts["tags"] == {
        "group": {"pairs": 3, "values": 2, "top": {"food": 2, "drink": 1}},
        "mood": {"pairs": 1, "values": 1, "top": {"calm": 1}},
        "style": {"pairs": 3, "values": 2, "top": {"noto": 2, "flat": 1}},
    }


def test_the_ten_commonest_values_are_listed_ties_by_name() -> None:
    items = [pair(f"{i}", letter=letter) for i, letter in enumerate("lkjihgfedcba" + "k")]
    letter = describe(items)["tags"]["letter"]
    assert (letter["pairs"], letter["values"]) == (13, 12)
    assert list(letter["top"].items()) == [("k", 2), *((one, 1) for one in "abcdefghi")]


def test_a_tag_of_too_many_values_is_said_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "MOST_VALUES", 3)
    counts = describe([pair(f"{i}", address=f"{i}", style=f"{i % 3}") for i in range(5)])
    assert counts["tags"]["address"] == {"pairs": 5, "values": None, "top": {}}
    assert counts["tags"]["style"]["values"] == 3


def test_captions_and_characters_are_measured_by_language() -> None:
    question = Question(lang="en", text="red?", answers=("no",))
    items = [
        pair("a", prompts={"en": ("fruit",), "zh": ("水果", "水")}),
        pair("b", captions={"en": ("pea", "peaches")}),
        Pair(id="c", place="c", picture=None, questions=(question, question)),
    ]
    counts = describe(items)
    assert counts["captions"] == {
        "en": {"count": 3, "shortest": 3, "mean": 5, "longest": 7},
        "zh": {"count": 1, "shortest": 4, "mean": 4, "longest": 4},
    }
    assert counts["prompts"] == {"en": 1, "zh": 2}
    assert counts["questions"] == 2
    assert counts["distinct_characters"] == {
        "en": len(set("peachesfruit")),
        "zh": len(set("桃，扁平水果")),
    }
    assert counts["chinese_characters"] == 5  # the comma is none


def test_no_pairs_give_zeros_and_json_can_hold_the_result() -> None:
    counts = describe([])
    assert (counts["pairs"], counts["captions"], counts["tags"]) == (0, {}, {})
    assert json.loads(json.dumps(describe([pair("a", style="x")])))["pairs"] == 1


@pytest.mark.parametrize(
    ("character", "expected"),
    [("桃", True), ("㐀", True), ("\U00020000", True), ("，", False), ("a", False), ("ア", False)],
)
def test_chinese_characters_are_ideographs(character: str, expected: bool) -> None:
    assert describe([pair("a", {"zh": (character,)})])["chinese_characters"] == expected
