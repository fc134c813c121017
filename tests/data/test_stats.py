"""Counts of a data set, by hand."""

import json

import pytest

from vilg.data.shards import Sample
from vilg.data.stats import describe


def sample(id: str, **changes: object) -> Sample:
    style, _, concept = id.partition("-")
    fields: dict[str, object] = {
        "id": id,
        "concept": concept,
        "style": style,
        "group": "food",
        "subgroup": "fruit",
        "names": {"zh": "桃", "en": "peach"},
        "captions": {"zh": ("桃，扁平",), "en": ("peach",)},
        "keywords": {"zh": ("水果",), "en": ("fruit",)},
        "picture": b"1234",
    }
    return Sample(**(fields | changes))  # type: ignore[arg-type]


def test_samples_are_counted_by_style_group_and_split() -> None:
    samples = [sample("noto-A"), sample("flat-A"), sample("noto-B", group="drink")]
    counts = describe(samples, {"train": ["noto-A", "noto-B"], "test": ["flat-A", "elsewhere-C"]})
    assert counts["samples"] == 3
    assert counts["concepts"] == 2
    assert counts["picture_bytes"] == 12
    assert list(counts["style"].items()) == [("flat", 1), ("noto", 2)]
    assert list(counts["group"].items()) == [("drink", 1), ("food", 2)]
    assert list(counts["split"].items()) == [("test", 1), ("train", 2)]


def test_captions_and_characters_are_measured_by_language() -> None:
    counts = describe([sample("noto-A"), sample("noto-B", captions={"en": ("pea", "peaches")})])
    assert counts["captions"] == {
        "en": {"count": 3, "shortest": 3, "mean": 5, "longest": 7},
        "zh": {"count": 1, "shortest": 4, "mean": 4, "longest": 4},
    }
    assert counts["distinct_characters"] == {
        "en": len(set("peachesfruit")),
        "zh": len(set("桃，扁平水果")),
    }
    assert counts["chinese_characters"] == 5  # the comma is none


def test_no_samples_give_zeros_and_json_can_hold_the_result() -> None:
    counts = describe([])
    assert counts["samples"] == 0
    assert counts["captions"] == {}
    assert json.loads(json.dumps(describe([sample("noto-A")])))["samples"] == 1


@pytest.mark.parametrize(
    ("character", "expected"),
    [("桃", True), ("㐀", True), ("\U00020000", True), ("，", False), ("a", False), ("ア", False)],
)
def test_chinese_characters_are_ideographs(character: str, expected: bool) -> None:
    counts = describe([sample("noto-A", captions={"zh": (character,)}, keywords={})])
    assert counts["chinese_characters"] == expected
