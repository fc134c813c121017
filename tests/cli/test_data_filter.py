"""`vilg data filter`: its table, its files, and what it refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in {"a": (40, 40), "b": (90, 30), "c": (40, 40)}.items():
        Image.linear_gradient("L").resize(size).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a picture of {name}")
    return folder


def test_the_table_and_the_ids(run: Run, photos: Path) -> None:
    result = run("data", "filter", photos, "--out", "chosen", "--keep", "aspect<2", "words<=4")
    assert result.status == 0, result.err
    assert [line.split()[-4:] for line in result.out.splitlines()[5:7]] == [
        ["aspect<2", "1", "1", "2"],
        ["words<=4", "0", "0", "2"],
    ]
    assert Path("chosen/kept.txt").read_text() == "a\nc\n"
    left_out = json.loads(Path("chosen/rejects.jsonl").read_text())
    assert left_out["reason"] == "not aspect<2"
    again = run("data", "filter", photos, "--out", "again", "--ids", "chosen/kept.txt")
    assert again.status == 0, again.err
    assert Path("again/kept.txt").read_text() == "a\nc\n"


def test_like_pictures(run: Run, photos: Path) -> None:
    result = run("data", "filter", photos, "--out", "chosen", "--near", "3")
    assert result.status == 0, result.err
    assert Path("chosen/kept.txt").read_text() == "a\n"


def test_the_matching_score_by_the_model(run: Run, toy_folder: Path, toy_data: Path) -> None:
    words = ("data", "filter", toy_data, "--out", "chosen", "--rules", "paper")
    without = run(*words)
    assert without.status == 0, without.err
    assert "no matching score" in without.err
    assert "matching>0.5" in without.out and "does not apply to 20" in without.out
    scored = run(*words, "--model", toy_folder)
    assert scored.status == 0, scored.err
    assert "fitted to 20 pairs" in scored.err
    (line,) = [line for line in scored.out.splitlines() if line.startswith("matching>0.5")]
    assert "does not apply" not in line
    late = run(*words)  # scores stay, and need no model any longer
    assert (late.status, late.out) == (0, scored.out)


def test_what_it_refuses(run: Run, photos: Path) -> None:
    for more, reason in {
        ("--keep", "colour>3"): "colour>3",
        ("--near", "9"): "0 to 7 bits",
        ("--ids", "none.txt"): "none.txt",
        ("--rules", "own"): "own",
        ("--model", "a", "--clip", "b"): "choose one",
        ("--model", "nowhere"): "nowhere",
    }.items():
        result = run("data", "filter", photos, "--out", "chosen", *more)
        assert result.status == 2
        assert reason in result.err
