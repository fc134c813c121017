"""`vilg data translate` with a tiny random model, and what other verbs then read."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run

pytest.importorskip("transformers")

from tests.sampling.test_translator import t5  # noqa: F401 - a fixture


def test_translations_go_with_their_source(run: Run, t5: Path) -> None:  # noqa: F811
    Path("photos").mkdir()
    for name, caption in {"a": "a red apple", "b": "apple", "c": "红苹果"}.items():
        Image.new("L", (8, 8)).save(f"photos/{name}.png")
        Path(f"photos/{name}.txt").write_text(caption)
    result = run("data", "translate", "photos", "--by", t5, "--to", "zh", "--out", "zh.jsonl")
    assert result.status == 0, result.err
    assert result.out == "zh.jsonl\n"
    assert "1 captions of 1 pairs translated; 1 pairs had captions in zh already; 1 " in result.err
    again = run("data", "translate", "photos", "--by", t5, "--to", "zh", "--out", "zh.jsonl")
    assert (again.status, again.out) == (0, "zh.jsonl\n")
    words = ("data", "filter", "photos", "--out", "out", "--translations", "zh.jsonl")
    result = run(*words, "--keep", "captions=2")
    assert result.status == 0, result.err
    assert Path("out/kept.txt").read_text() == "a\n"
    row = json.loads(Path("out/columns.jsonl").read_text().splitlines()[0])
    assert row["language"] == "en+zh"


def test_what_it_refuses(run: Run, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("apple")
    words = ("data", "translate", tmp_path, "--to", "zh")
    result = run(*words, "--by", "owner/nobody", "--out", "zh.jsonl")
    assert result.status == 2 and "cannot load owner/nobody as a translator" in result.err
    result = run(*words, "--by", "owner/nobody", "--out", "zh.txt")
    assert result.status == 2 and "ends in .jsonl" in result.err
    result = run("data", "filter", tmp_path, "--out", "out", "--translations", "none.jsonl")
    assert result.status == 2 and "none.jsonl" in result.err
