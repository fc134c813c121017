"""Rules on a set of ten items counted by hand; kills, several workers, other rules on the same columns."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vilg.data.filter import (
    COLUMNS,
    KEPT,
    PAPER,
    REJECTS,
    Chosen,
    choose,
    parse_rule,
    write_columns,
)
from vilg.data.pairs import DataError
from vilg.data.parts import ITEMS, Worker
from vilg.data.sources import Source, open_source
from vilg.data.words import counter_of
from vilg.randomness import integers


def noise(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    levels = integers(seed, "noise", 256, np.arange(64)).astype(np.uint8).reshape(8, 8)
    return Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def ten(tmp_path: Path) -> Source:
    """Ten items: two are no pairs, one has an id twice, two pictures are alike, one is broken."""
    folder = tmp_path / "ten"
    folder.mkdir()
    for name, picture in {
        "0": noise(0),
        "1": noise(1),
        "1-again": noise(1, 48, 48),
        "2": noise(2),
        "small": noise(3, 10, 10),
        "long": noise(4, 90, 30),
    }.items():
        picture.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    lines = [
        {"id": "good", "image": "0.png", "caption": "a dog"},
        {"id": "wordy", "image": "1.png", "caption": "a dog and " * 5},
        {"id": "again", "image": "1-again.png", "caption": "a dog"},
        {"id": "sign", "image": "2.png", "caption": "a #dog @ home"},
        {"id": "broken", "image": "broken.png", "caption": "a dog"},
        {"id": "nothing", "image": "0.png"},
        {"id": "good", "image": "2.png", "caption": "a second dog"},
        {"id": "small", "image": "small.png", "caption": "小狗"},
        {"id": "long", "image": "long.png", "caption": "a long dog"},
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text + "{\n", encoding="utf-8")
    return open_source(str(folder / "pairs.jsonl"))


def filtered(source: Source, out: Path, *conditions: str, near: int | None = None) -> Chosen:
    assert write_columns(source, out)
    rules = [parse_rule(condition) for condition in conditions]
    return choose(out, rules, near, max_rejects=1)


def kept(out: Path) -> list[str]:
    return (out / KEPT).read_text(encoding="utf-8").splitlines()


def reasons(out: Path) -> dict[str, str]:
    lines = map(json.loads, (out / REJECTS).read_text(encoding="utf-8").splitlines())
    return {line["place"]: line["reason"] for line in lines}


def table(chosen: Chosen) -> list[tuple[int, int, int, int]]:
    return [(rule.alone, rule.in_order, rule.left, rule.not_told) for rule in chosen.rules]


def test_the_table_is_what_a_person_counts(ten: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    conditions = ("words<15", "special=0", "width>=32", "aspect<=2", "language=en", "matching>0.5")
    chosen = filtered(ten, out, *conditions, near=3)
    assert (chosen.items, chosen.rejects, chosen.pairs, chosen.kept) == (10, 2, 8, 2)
    assert [rule.name for rule in chosen.rules[2:-1]] == list(conditions)
    assert table(chosen) == [
        (1, 1, 7, 0),  # the second "good"
        (1, 1, 6, 0),  # broken
        (1, 1, 5, 0),  # wordy
        (1, 1, 4, 0),  # sign
        (1, 1, 3, 1),  # small; the broken one has no width
        (1, 1, 2, 1),  # long
        (1, 0, 2, 0),  # small, which is gone already
        (0, 0, 2, 8),  # no score was asked for
        # Alone: "again" is like "wordy", and the second "good" like "sign". In order both are gone.
        (2, 0, 2, 1),
    ]
    assert kept(out) == ["good", "again"]
    assert reasons(out) == {
        "pairs.jsonl line 2": "not words<15",
        "pairs.jsonl line 4": "not special=0",
        "pairs.jsonl line 5": "the picture is not a readable picture (of no known format)",
        "pairs.jsonl line 6": "no caption",
        "pairs.jsonl line 7": "an earlier pair has this id, or it has several lines",
        "pairs.jsonl line 8": "not width>=32",
        "pairs.jsonl line 9": "not aspect<=2",
        "pairs.jsonl line 10": reasons(out)["pairs.jsonl line 10"],
    }


def test_of_like_pictures_the_first_that_is_left_stays(ten: Source, tmp_path: Path) -> None:
    filtered(ten, tmp_path / "out", near=3)
    assert kept(tmp_path / "out") == ["good", "wordy", "sign", "small", "long"]


def test_the_papers_rules(ten: Source, tmp_path: Path) -> None:
    chosen = filtered(ten, tmp_path / "out", *PAPER)
    assert [rule.name for rule in chosen.rules[2:]] == [
        "words<15",
        "nouns>=1",
        "special=0",
        "matching>0.5",
    ]
    assert kept(tmp_path / "out") == ["good", "again", "small", "long"]


def test_a_rule_that_knows_nothing_of_a_pair_does_not_apply(
    ten: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vilg.data.words.find_spec", lambda name: None)
    counter_of.cache_clear()
    try:
        chosen = filtered(ten, tmp_path / "out", "nouns>=1")
    finally:
        counter_of.cache_clear()
    assert table(chosen)[2] == (0, 0, 6, 8)


def test_other_rules_look_at_no_picture_again(ten: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filtered(ten, out)
    before = (out / COLUMNS).read_bytes()
    for picture in Path(ten.given).parent.glob("*.png"):
        picture.write_bytes(b"")
    assert filtered(ten, out, "words<15").kept == 5
    assert (out / COLUMNS).read_bytes() == before


def test_columns_of_another_source_are_not_taken_for_this_ones(ten: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filtered(ten, out)
    with Path(ten.given).open("a") as file:
        file.write("[]\n")
    with pytest.raises(DataError, match=r"columns\.jsonl is made from another source: remove it"):
        filtered(open_source(ten.given), out)


def test_columns_of_other_pictures_are_not_taken_for_these_ones(
    ten: Source, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    filtered(ten, out, near=3)
    noise(9, 200, 200).save(Path(ten.given).with_name("1-again.png"))
    with pytest.raises(DataError, match=r"columns\.jsonl is made from another source"):
        filtered(open_source(ten.given), out, near=3)


def test_what_is_chosen_is_not_written_among_what_is_read(tmp_path: Path) -> None:
    """kept.txt would be a text without a picture the next time."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise(0).save(folder / "a.png")
    (folder / "a.txt").write_text("a dog")
    with pytest.raises(DataError, match="write outside of it"):
        filtered(open_source(str(folder)), folder / "chosen")
    assert not (folder / "chosen").exists()


def test_too_many_items_that_are_no_pairs(ten: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filtered(ten, out)
    choose(out, [], max_rejects=0.2)
    assert (out / KEPT).exists()
    with pytest.raises(DataError, match=r"2 of 10 pairs were left out, more than 10%"):
        choose(out, [])
    assert sorted(path.name for path in out.iterdir()) == [
        "columns.jsonl",
        "columns.made_from",
        "rejects.jsonl",
    ]


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("words", "no condition"),
        ("colour>3", "language"),
        ("words>many", "'many' is no number"),
        ("words>nan", "nothing can be compared"),
        ("language>en", "which is = or !="),
        ("language=", "which is = or !="),
        ("words=<3", "'<3' is no number"),
    ],
)
def test_what_is_no_condition(condition: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse_rule(condition)


def test_near_has_bounds(ten: Source, tmp_path: Path) -> None:
    for near in (-1, 8):
        with pytest.raises(DataError, match="0 to 7 bits"):
            filtered(ten, tmp_path / "out", near=near)


CONDITIONS = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["words", "special", "width", "aspect", "captions", "nouns"]),
        st.sampled_from(["<", "<=", ">", ">=", "=", "!="]),
        st.integers(0, 40),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """Columns of 60 pairs as chance has them."""
    out = tmp_path_factory.mktemp("measured")
    rows = []
    for i in range(60):
        numbers = integers(5, "rows", 40, i, np.arange(5)).tolist()
        row = dict(zip(("words", "special", "width", "aspect", "captions"), numbers, strict=True))
        looks = int(integers(5, "looks", 30, i))
        rows.append(
            {"id": f"{i % 55}", "place": f"line {i}", "broken": i % 9 == 0, "why": "bad"}
            | row
            | {"looks": f"{looks:016x}"}
        )
    (out / COLUMNS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out, rows


@settings(max_examples=60, deadline=None)
@given(CONDITIONS, st.none() | st.integers(0, 3))
def test_the_numbers_add_up(
    measured: tuple[Path, list[dict[str, object]]], conditions: list[str], near: int | None
) -> None:
    out, rows = measured
    rules = [parse_rule(condition) for condition in conditions]
    chosen = choose(out, rules, near)
    left = 60
    for rule in chosen.rules:
        left -= rule.in_order
        assert rule.left == left
        assert rule.in_order >= 0 and rule.alone + rule.not_told <= 60
    assert chosen.rules[0].in_order == chosen.rules[0].alone
    assert chosen.kept == len(kept(out)) == 60 - len(reasons(out))
    naive = [
        str(row["id"])
        for row in rows[:55]  # then ids come again
        if not row["broken"] and all(rule.holds(row) is not False for rule in rules)
    ]
    assert set(kept(out)) <= set(naive)
    assert near is not None or kept(out) == naive


# Of several parts, and all of the same three pictures.
MANY = 3 * ITEMS + 300


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("many")
    for name in range(3):
        noise(name, 16, 16).save(folder / f"{name}.png")
    with (folder / "pairs.jsonl").open("w") as file:
        for i in range(MANY):
            caption = "" if i % 500 == 7 else "dog " * (i % 20 + 1)
            line = {"id": f"p{i}", "image": f"{i % 3}.png", "caption": caption}
            file.write(json.dumps(line) + "\n")
    yield folder / "pairs.jsonl"
    shutil.rmtree(folder)


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_workers_make_the_same_files_however_many_they_are(many: Path, tmp_path: Path) -> None:
    source, made = open_source(str(many)), []
    for world in (1, 2, 3):
        out = tmp_path / str(world)
        ends = [write_columns(source, out, Worker(rank, world)) for rank in reversed(range(world))]
        assert ends == [False] * (world - 1) + [True]
        choose(out, [parse_rule("words<15")])
        made.append(files_of(out))
    assert made[0] == made[1] == made[2]
    assert sorted(made[0]) == ["columns.jsonl", "columns.made_from", "kept.txt", "rejects.jsonl"]


@pytest.mark.slow
def test_after_kills_the_same_command_goes_on_to_the_same_files(many: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    call = [sys.executable, "-m", "vilg", "data", "filter", many, "--keep", "words<15", "--out"]
    subprocess.run([*call, whole], check=True, capture_output=True)
    for num_parts in (0, 1, 3):
        process = subprocess.Popen([*call, killed], stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if len(list(killed.glob("columns.parts/*.jsonl"))) >= num_parts and killed.exists():
                process.kill()
            time.sleep(0.01)
        process.wait()
    assert not (killed / KEPT).exists()
    subprocess.run([*call, killed], check=True, capture_output=True)
    assert files_of(killed) == files_of(whole)
