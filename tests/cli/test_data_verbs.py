"""`vilg data check`, `stats` and `pack`: what they say and write."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.data.sources import write_jsonl
from vilg.images import open_picture, to_array


@pytest.fixture
def source(run: Run, tmp_path: Path) -> Path:
    """Three pairs, a lost picture and a broken one."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_text("words")
    records = [
        {"image": "a.png", "caption": "a red apple, 3D render", "style": "3D"},
        {
            "image": "b.png",
            "caption_zh": "红苹果，扁平风格",
            "caption_en": "x" * 300,
            "style": "flat",
        },
        {"image": "lost.png", "caption": "nothing"},
        {"image": "broken.png", "caption": "words"},
    ]
    return write_jsonl(tmp_path / "in", records)


def test_check_says_what_is_there_and_what_is_wrong(run: Run, source: Path) -> None:
    result = run("data", "check", source)
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    for row in (
        ["format", "JSON", "lines"],
        ["pairs", "3"],
        ["to", "train", "on", "2"],
        ["pictures", "2"],
        ["captions", "en", "3"],
        ["captions", "zh", "1"],
        ["1", "the", "picture", "…", "is", "not", "there"],
        ["at", "pairs.jsonl", "line", "3"],
        ["1", "a", "text", "longer", "than", "the", "model", "reads"],
        ["as", "understood:", "pairs.jsonl", "line", "1"],
        ["caption", "zh", "红苹果，扁平风格"],
        ["tags", "style=flat"],
    ):
        assert row in rows, result.out
    assert "no tag tells them: 2 captions" in result.out
    assert "longer than the model reads (63): 1 texts" in result.out


def test_check_prints_json_that_says_the_same(run: Run, source: Path) -> None:
    result = run("data", "check", source, "--json", "--max-text", "2")
    found = json.loads(result.out)
    assert (found["format"], found["pairs"], found["usable"]) == ("JSON lines", 3, 0)
    assert found["tokens"]["model_reads"] == 1
    assert [example["id"] for example in found["examples"]] == ["a", "b", "broken"]
    [(_, lost)] = found["faults"]["rejects"].items()
    assert lost == {"number": 1, "places": ["pairs.jsonl line 3"]}


def test_check_of_rejects_alone_reports_them_with_status_2(run: Run, source: Path) -> None:
    source.write_text('{"image": "lost.png", "caption": "x"}\nno json\n', encoding="utf-8")
    result = run("data", "check", source, "--format", "JSON lines")
    assert result.status == 2
    assert result.err.startswith("vilg: error: ") and "holds no pair among 2 items" in result.err
    assert "no pairs: 2" in result.out and "at pairs.jsonl line 2" in result.out


def test_a_sheet_shows_pictures_that_can_be_read(run: Run, source: Path) -> None:
    result = run("data", "check", source, "--sheet", "new/sheet.png")
    assert result.status == 0 and "new/sheet.png: 2 pairs" in result.err
    sheet = to_array(open_picture(Path("new/sheet.png")))
    assert (sheet[5] == [0, 0, 99]).all(1).sum() == 160
    assert (sheet[5] == [1, 0, 99]).all(1).sum() == 160
    assert np.unique(sheet[-1]) == 255


def test_stats_count_any_source_and_our_own(run: Run, source: Path, toy_data: Path) -> None:
    result = run("data", "stats", source)
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    for row in (["pairs", "3"], ["rejects", "1"], ["style:", "2", "values,", "2", "pairs"]):
        assert row in rows, result.out
    ours = run("data", "stats", toy_data)
    assert (ours.status, ours.err) == (0, "")
    rows = [line.split() for line in ours.out.splitlines()]
    for row in (["pairs", "20"], ["train", "15"], ["unseen_combination", "3"]):
        assert row in rows, ours.out


def test_pack_writes_what_every_other_verb_reads(run: Run, source: Path) -> None:
    result = run("data", "pack", source, "--out", "packed", "--max-rejects", "0.5")
    assert (result.status, result.out) == (0, "packed\n")
    assert "2 pairs; left out: 2 pairs, see packed/rejects.jsonl" in result.err
    assert [path.name for path in Path("packed/shards").iterdir()] == ["packed-00000000.tar"]
    counts = json.loads(run("data", "check", "packed", "--json").out)
    assert (counts["format"], counts["pairs"], counts["usable"]) == ("packed", 2, 2)
    again = run("data", "pack", source, "--out", "packed", "--name", "other")
    assert again.status == 2 and "packed holds another data set" in again.err


def test_workers_say_who_joins_the_parts(
    run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"image": "a.png", "id": f"{i}", "caption": "x"} for i in range(1001)]
    write_jsonl(source.parent, records)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, out in (("1", ""), ("0", "packed\n")):
        monkeypatch.setenv("RANK", rank)
        result = run("data", "pack", source, "--out", "packed")
        assert (result.status, result.out) == (0, out)
    assert "1001 pairs" in result.err


def test_a_folder_of_another_verb_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    assert run("data", "pack", source, "--out", packed, "--max-rejects", 0.5).status == 0
    before = (packed / "rejects.jsonl").read_bytes()
    for verb in ("tokenize", "filter"):
        result = run("data", verb, source, "--out", packed, "--max-rejects", 0.5)
        assert result.status == 2
        assert f"{packed} holds packed pairs: name another folder with --out" in result.err
    assert (packed / "rejects.jsonl").read_bytes() == before
