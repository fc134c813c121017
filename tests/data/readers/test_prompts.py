import pytest

from tests.data.readers.fixtures import geneval, parti, prompt_lines, put, told, vilg_300
from vilg.data.readers.prompts import read_prompts


def test_vilg_300(tmp_path):
    items = list(read_prompts(vilg_300(tmp_path)))
    assert told(items) == [
        (
            "ViLG-300-1",
            "ViLG-300.csv line 2",
            {"en": ("a cat,\nasleep",), "zh": ("一只猫，\n睡着了",)},
        ),
        ("ViLG-300-2", "ViLG-300.csv line 5", {"en": ("a dog",), "zh": ("一条狗",)}),
    ]
    assert [pair.tags for pair in items] == [
        {"category": "Simple", "source": "COCO-CN"},
        {"category": "Complex", "source": "DrawBench"},
    ]
    assert [pair.picture for pair in items] == [None, None]


def test_parti(tmp_path):
    items = list(read_prompts(parti(tmp_path)))
    assert told(items) == [
        ("PartiPrompts-1", "PartiPrompts.tsv line 2", {"en": ("bond",)}),
        ("PartiPrompts-2", "PartiPrompts.tsv line 3", {"en": ('"a" sign',)}),
    ]
    assert items[0].tags == {"category": "Abstract", "challenge": "Basic", "note": "Biology"}
    assert items[1].tags == {"category": "Arts", "challenge": "Basic"}


def test_geneval(tmp_path):
    items = list(read_prompts(geneval(tmp_path)))
    assert told(items) == [
        (
            "evaluation_metadata-1",
            "evaluation_metadata.jsonl line 1",
            {"en": ("a photo of two benches",)},
        ),
        (
            "evaluation_metadata-2",
            "evaluation_metadata.jsonl line 2",
            {"en": ("a photo of a cow",)},
        ),
    ]
    assert items[0].tags == {"tag": "counting", "include": '[{"class": "bench", "count": 2}]'}


def test_one_prompt_a_line(tmp_path):
    assert told(read_prompts(prompt_lines(tmp_path))) == [
        ("prompts-1", "prompts.txt line 1", {"en": ("a cat",)}),
        ("prompts-2", "prompts.txt line 3", {"zh": ("一条狗",)}),
    ]


@pytest.mark.parametrize(
    "name, content, place, reason",
    [
        ("x.txt", b"\xff\n", "x.txt line 1", "bytes that are no UTF-8"),
        ("x.jsonl", b'{"prompt": 7}', "x.jsonl line 1", "a prompt that is no text"),
        ("x.jsonl", b'{"tag": "a"}', "x.jsonl line 1", "no caption"),
        ("x.jsonl", b"{", "x.jsonl line 1", "no JSON: "),
        ("x.csv", b"Prompt,B\na\n", "x.csv line 2", "1 cells under 2 names of columns"),
        ("x.csv", b"Prompt,B\n,b\n", "x.csv line 2", "no caption"),
    ],
)
def test_what_is_no_prompt_is_told(name, content, place, reason, tmp_path):
    (item,) = read_prompts(put(tmp_path / name, content))
    assert item.place == place
    assert item.reason.startswith(reason)


def test_ids_do_not_move_with_a_bad_line(tmp_path):
    items = read_prompts(put(tmp_path / "x.txt", b"one\n\xff\nthree\n"))
    assert [item.id for item in items] == ["x-1", None, "x-3"]
