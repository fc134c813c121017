"""What check finds, counted by hand; its memory; what of it is for the eye."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.sources import picture, write_jsonl
from vilg.data import check as check_module
from vilg.data.check import Fault, Faults, Findings, Lengths, check
from vilg.data.pairs import Pair
from vilg.data.sheet import captions_sheet, find_chinese_font
from vilg.data.sources import open_source
from vilg.text import TextTokenizer

WORDS = TextTokenizer(alphabet="桃子红一个", word_pieces=())
LONG = "abcdefghijklmnop"  # a letter is a token, and the space before it one more


def run(source: Path, max_text: int = 10, helpers: int = 0) -> Findings:
    return check(open_source(str(source)), WORDS, max_text, helpers)


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    good = picture(3, size=(40, 30))
    (tmp_path / "in" / "a.png").write_bytes(good)
    (tmp_path / "in" / "text.png").write_text("no picture")
    (tmp_path / "in" / "cut.png").write_bytes(good[:50])
    records: list[dict[str, Any]] = [
        {"image": "a.png", "caption": ["peach", "桃子"], "caption_en": "red", "style": "flat"},
        {"image": "lost1.png", "caption": "x"},
        {"image": "text.png", "caption": "x"},
        {"image": "cut.png", "caption": "x"},
        {"image": "lost2.png", "caption": "x"},
        {"image": "b.png", "caption_zh": ["一个", ""], "caption_en": LONG},
        {"image": "c.png", "caption": LONG},
        {"image": "lost3.png", "caption": "x"},
        {"image": "d.png", "id": "b", "caption": "again"},
        {"image": "e.png", "questions": [{"question": "red?", "answers": ["no", "red"]}]},
        {"image": "lost4.png", "caption": "x"},
        {"image": "f.png", "caption": "\u200b"},
        {"image": "c.png", "id": "c", "caption": "fits"},
    ]
    return write_jsonl(tmp_path / "in", records)


def test_everything_is_counted(faulty: Path) -> None:
    found = run(faulty)
    assert (found.pairs, found.pictures, found.without_picture) == (9, 7, 0)
    assert found.captions == {"en": 9, "zh": 2}
    assert (found.questions, found.answers, found.prompts) == ({"en": 1}, 2, {})
    # All captions under "caption" but none of "caption_en" and "caption_zh".
    assert found.untagged == 2 + 6
    # a, b, e and the later of the two c, since the earlier one has no text that fits.
    assert found.usable == 4


def test_kinds_of_faults_have_their_number_and_first_places(faulty: Path) -> None:
    found = run(faulty)
    [(reason, lost)] = found.rejects.kinds.items()
    assert reason == "the picture … is not there"
    assert lost == Fault(4, [f"pairs.jsonl line {line}" for line in (2, 5, 8)])
    assert found.texts.kinds == {
        "an empty caption": Fault(1, ["pairs.jsonl line 6"]),
        "a text longer than the model reads": Fault(
            2, ["pairs.jsonl line 6", "pairs.jsonl line 7"]
        ),
        "a text without a visible character": Fault(1, ["pairs.jsonl line 12"]),
    }
    broken = sorted(fault.places for fault in found.broken.kinds.values())
    assert broken == [["pairs.jsonl line 3"], ["pairs.jsonl line 4"]]
    [second] = found.second.kinds.values()
    assert second == Fault(1, ["pairs.jsonl line 9 (id b)"])


def test_lengths_are_those_of_all_texts_in_tokens(faulty: Path) -> None:
    found = run(faulty)
    texts = ["peach", "桃子", "red", "x", "x", "一个", LONG, LONG, "again"]
    texts += ["red?", "no", "red", "fits"]
    lengths = sorted(len(WORDS.encode(text)) for text in texts)
    tokens = found.as_dict()["tokens"]
    assert tokens["texts"] == 13
    assert tokens["median"] == lengths[6]
    assert tokens["share_95"] == tokens["longest"] == lengths[-1] == 17
    assert (tokens["model_reads"], tokens["longer"]) == (9, 2)


@pytest.mark.parametrize("number", [1, 2, 19, 20, 21, 100])
def test_shares_are_those_of_a_sorted_list(number: int) -> None:
    values = np.random.default_rng(number).integers(1, 30, number)
    lengths = Lengths()
    lengths.counts.update(values.tolist())
    for share in (0.5, 0.95, 1):
        expected = np.quantile(values, share, method="inverted_cdf")
        assert lengths.share(share) == expected
    assert lengths.over(7) == sum(value > 7 for value in values)
    assert Lengths().share(0.5) == 0


def test_three_pairs_are_shown_as_they_were_understood(faulty: Path) -> None:
    [first, broken, _] = run(faulty).as_dict()["examples"]
    assert first == {
        "id": "a",
        "place": "pairs.jsonl line 1",
        "picture": "40 x 30 pixels",
        "captions": {"en": ("peach", "red"), "zh": ("桃子",)},
        "prompts": {},
        "questions": [],
        "tags": {"style": "flat"},
    }
    assert "not a readable picture" in broken["picture"]


def test_faults_of_one_kind_differ_in_names_and_numbers_only() -> None:
    faults = Faults()
    for name, lang in (("a.b", "fr"), ("c d", "ja")):
        faults.add(f"no caption: there is no '{name}.txt' or .caption beside it", name)
        faults.add(f"a caption in '{lang}', which has no token (zh, en have)", name)
    faults.add("its text is no UTF-8 (invalid start byte at byte 17)", "x")
    assert list(faults.kinds) == [
        "no caption: there is no … or .caption beside it",
        "a caption in …, which has no token (zh, en have)",
        "its text is no UTF-8 (invalid start byte at byte …)",
    ]


def test_kinds_without_end_do_not_fill_the_memory() -> None:
    faults = Faults()
    for i in range(1000):
        letters = chr(97 + i % 26) + chr(97 + i // 26 % 26) + chr(97 + i // 676)
        faults.add(f"of kind {letters}", f"line {i}")
    assert len(faults.kinds) == 51 and faults.number == 1000
    assert faults.kinds["others"].number == 950


def test_pairs_are_looked_at_in_order_whatever_a_batch_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(
        tmp_path, ({"image": "a.png", "id": f"{i}", "caption": f"{i}"} for i in range(50))
    )
    expected = run(path)
    assert [pair.id for pair, _ in expected.examples] == ["0", "1", "2"]
    monkeypatch.setattr(check_module, "_BATCH", 1)
    assert run(path) == expected
    monkeypatch.setattr(check_module, "_ALONE", 3)
    assert run(path, helpers=1) == expected
    assert len(expected.shown) == 24
    places = [int(pair.id) for pair in expected.shown]
    assert places == sorted(places) and places[-1] > 30


def test_captions_of_several_rows_keep_who_told_their_language(tmp_path: Path) -> None:
    records = [
        {"image": "a.png", "caption": "a cat"},
        {"image": "a.png", "caption": "桃子"},
        {"image": "a.png", "caption": "a dog", "lang": "en"},
    ]
    found = run(write_jsonl(tmp_path, records))
    assert (found.pairs, found.captions, found.untagged) == (1, {"en": 2, "zh": 1}, 2)


def test_a_list_of_prompts_has_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red peach\n桃子\n", encoding="utf-8")
    found = run(tmp_path / "prompts.txt")
    assert (found.pairs, found.without_picture, found.pictures, found.usable) == (2, 2, 0, 0)
    assert found.untagged == 2


def test_the_sheet_has_pictures_with_captions_beneath(tmp_path: Path) -> None:
    texts = ["a peach", "word " * 100, "x" * 500, "桃子", ""]
    path = write_jsonl(
        tmp_path,
        ({"image": f"{i}.png", "caption": text} for i, text in enumerate(texts)),
    )
    pairs = [item for item in open_source(str(path)) if isinstance(item, Pair)]
    sheet = captions_sheet(pairs, find_chinese_font())
    assert len(pairs) == 4
    side, gap, text = 160, 4, 90
    assert sheet.size == (4 * (side + gap) + gap, side + text + 2 * gap)
    array = np.asarray(sheet)
    for i in range(4):
        left = gap + i * (side + gap)
        assert (array[gap : gap + side, left : left + side] == (i, 0, 99)).all()
    beneath = array[gap + side : gap + side + text].min(2)
    assert (beneath[:, : gap + side] < 128).any()  # ink
    # No text runs into the gap, whose columns are white.
    assert (beneath[:, [x * (side + gap) + 1 for x in range(5)]] == 255).all()
    without_chinese = np.asarray(captions_sheet(pairs[3:], None))
    assert (without_chinese[gap + side :] == 255).all()


SCRIPT = """
import resource, sys
from pathlib import Path
from vilg.data.check import check
from vilg.data.pack import pack
from vilg.data.sources import open_source
from vilg.text import TextTokenizer
source = open_source(sys.argv[2])
if sys.argv[1] == "check":
    check(source, TextTokenizer(alphabet="", word_pieces=()), 64)
else:
    pack(source, Path(sys.argv[3]), "many")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check", "pack"])
def test_memory_does_not_grow_with_the_source(tmp_path: Path, verb: str) -> None:
    """In kilobytes on Linux; 16 bytes an id are 0.3 MB, and a process differs from the next by some."""
    peaks = []
    for number in (1000, 20_000):
        records = ({"image": "a.png", "id": f"{i}", "caption": f"no. {i}"} for i in range(number))
        path = write_jsonl(tmp_path / str(number), records)
        command = [sys.executable, "-c", SCRIPT, verb, str(path), str(tmp_path / f"{number} out")]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 8000
