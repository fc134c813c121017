"""Translations beside a source, by a translator that spells words backwards."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vilg.data.pairs import DataError, Pair
from vilg.data.parts import ITEMS, Worker
from vilg.data.sources import Source, open_source
from vilg.data.translate import Translated, count_translations, write_translations


class Backwards:
    """Translates by spelling backwards; a question has no translation."""

    name, fingerprint = "owner/backwards", "1"

    def __call__(self, texts: Sequence[str]) -> list[str | DataError]:
        return [DataError("a question") if "?" in text else text[::-1] for text in texts]


def source_of(folder: Path, lines: list[dict[str, object]]) -> Source:
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(b"")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")
    return open_source(str(folder / "pairs.jsonl"))


@pytest.fixture
def five(tmp_path: Path) -> Source:
    return source_of(
        tmp_path / "five",
        [
            {"id": "one", "image": "a.png", "en": "dog"},
            {"id": "both", "image": "a.png", "en": "cat", "zh": "猫"},
            {"id": "none", "image": "a.png"},
            {"id": "some", "image": "a.png", "en": ["tip", "pit", "why?", "gnat"], "kind": "x"},
            {"id": "all", "image": "a.png", "en": ["who?"]},
        ],
    )


def with_file(source: Source, path: Path) -> list[Pair]:
    joined = open_source(source.given, translations=path)
    return [item for item in joined if isinstance(item, Pair)]


def test_what_is_written(five: Source, tmp_path: Path) -> None:
    path = tmp_path / "zh.jsonl"
    assert write_translations(five, path, Backwards(), "zh")
    assert list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) == [
        {"id": "one", "zh": ["god"], "translated": "owner/backwards"},
        {"id": "both", "zh": [], "had": 1},
        {
            "id": "some",
            "zh": ["pit", "tip", "tang"],
            "translated": "owner/backwards",
            "failed": [{"text": "why?", "reason": "a question"}],
        },
        {"id": "all", "zh": [], "failed": [{"text": "who?", "reason": "a question"}]},
    ]
    assert count_translations(path, "zh") == Translated(pairs=2, texts=4, had=1, failed=2)


def test_pairs_get_them_with_a_tag(five: Source, tmp_path: Path) -> None:
    path = tmp_path / "zh.jsonl"
    write_translations(five, path, Backwards(), "zh")
    one, both, some, all_failed = with_file(five, path)
    assert one.captions == {"en": ("dog",), "zh": ("god",)}
    assert one.tags == {"translated": "zh by owner/backwards"}
    assert both.captions == {"en": ("cat",), "zh": ("猫",)} and both.tags == {}
    assert some.captions["zh"] == ("pit", "tip", "tang")
    assert some.tags == {"kind": "x", "translated": "zh by owner/backwards"}
    assert all_failed.captions == {"en": ("who?",)} and all_failed.tags == {}
    joined = open_source(five.given, translations=path)
    assert joined.identity.items == 5 and joined.told != five.told


def test_into_english(tmp_path: Path) -> None:
    source = source_of(tmp_path / "zh", [{"id": "a", "image": "a.png", "zh": ["小狗"]}])
    write_translations(source, tmp_path / "en.jsonl", Backwards(), "en")
    (pair,) = with_file(source, tmp_path / "en.jsonl")
    assert pair.captions == {"en": ("狗小",), "zh": ("小狗",)}


def test_of_some_pairs_only(five: Source, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("some\n")
    some = open_source(five.given, ids=tmp_path / "ids.txt")
    write_translations(some, tmp_path / "zh.jsonl", Backwards(), "zh")
    pairs = with_file(five, tmp_path / "zh.jsonl")
    assert [pair.id for pair in pairs if "translated" in pair.tags] == ["some"]


def test_a_file_of_another_source_is_refused(five: Source, tmp_path: Path) -> None:
    path = tmp_path / "zh.jsonl"
    write_translations(five, path, Backwards(), "zh")
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"zh\.jsonl line 2: the source has no pair 'one'"):
        with_file(five, path)
    for text, reason in {
        '{"zh": ["a"]}': "line 1 is no line",
        '{"id": "one", "zh": [3]}': "line 1 is no line",
        "[": "no JSON",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=reason):
            with_file(five, path)
    with pytest.raises(DataError, match=r"cannot read the translations in .*none"):
        with_file(five, tmp_path / "none.jsonl")


def test_workers_write_the_same_file_and_a_second_run_goes_on(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"id": f"{i}", "image": "a.png", "en": f"dog {i}"} for i in range(2 * ITEMS + 5)
    ]
    source = source_of(tmp_path / "many", lines)
    made = []
    for world in (1, 2, 3):
        path = tmp_path / str(world) / "zh.jsonl"
        ends = [
            write_translations(source, path, Backwards(), "zh", Worker(rank, world))
            for rank in reversed(range(world))
        ]
        assert ends == [False] * (world - 1) + [True]
        made.append({file.name: file.read_bytes() for file in path.parent.iterdir()})
    assert made[0] == made[1] == made[2] and sorted(made[0]) == ["zh.jsonl", "zh.made_from"]
    # A worker that is gone: its parts are made by the next, and those that are there are kept.
    path = tmp_path / "again" / "zh.jsonl"
    assert not write_translations(source, path, Backwards(), "zh", Worker(0, 2))
    first = path.parent / "zh.parts" / "00000000.jsonl"
    first.write_text(first.read_text().replace('"0 god"', '"kept"', 1))
    assert write_translations(source, path, Backwards(), "zh", Worker(0, 1))
    assert path.read_bytes() == made[0]["zh.jsonl"].replace(b'"0 god"', b'"kept"', 1)


def test_a_file_by_another_model_is_not_gone_on_with(five: Source, tmp_path: Path) -> None:
    path = tmp_path / "zh.jsonl"
    write_translations(five, path, Backwards(), "zh")
    with pytest.raises(DataError, match=r"made from another to \(zh, now en\)"):
        write_translations(five, path, Backwards(), "en")
