import json
import unicodedata

import pytest

from tests.data.readers.fixtures import (
    pairs_of,
    picture,
    put,
    put_pictures,
    six_csv,
    six_jsonl,
    told,
)
from vilg.data.pairs import Question
from vilg.data.readers.tables import read_jsonl, read_table

ROWS = [
    ("cat", 1, {"en": ("a cat on a mat",), "zh": ("一只猫",)}),
    ("dog", 2, {"en": ("a dog, running",)}),
    ("bird", 3, {"en": ('a bird that says "hello"',)}),
    ("鱼", 4, {"zh": ("一条红色的鱼",)}),
    ("tree", 5, {"en": ("a tree", "a tall tree"), "zh": ("一棵高大的树",)}),
    ("house", 6, {"en": ("a house",)}),
]


@pytest.fixture
def jsonl(tmp_path):
    """Return what writes lines beside a.png and b.png and reads them."""
    put_pictures(tmp_path, "a.png", "b.png")

    def read(*lines: object) -> list:
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        return list(read_jsonl(put(tmp_path / "x.jsonl", b"\n".join(texts))))

    return read


@pytest.fixture
def table(tmp_path):
    """Return what writes a table beside a.png and b.png and reads it."""
    put_pictures(tmp_path, "a.png", "b.png")

    def read(content: str | bytes, name: str = "x.csv") -> list:
        return list(read_table(put(tmp_path / name, content)))

    return read


def test_json_lines_are_pairs(tmp_path):
    expected = [(id, f"six.jsonl line {line}", captions) for id, line, captions in ROWS]
    assert told(read_jsonl(six_jsonl(tmp_path))) == expected


def test_rows_of_one_picture_are_one_pair(tmp_path):
    lines = (2, 4, 5, 6, 7, 10)
    expected = [
        (id, f"six.csv line {line}", captions)
        for line, (id, _, captions) in zip(lines, ROWS, strict=True)
    ]
    assert told(read_table(six_csv(tmp_path))) == expected


def test_a_record_has_languages_questions_tags_and_an_id(jsonl):
    questions = [
        {"question": "What is it?", "answers": ["a cat", "a cat", "cat"]},
        {"question": "几只？", "answer": "一只"},
    ]
    (pair,) = jsonl(
        {
            "id": 7,
            "file_name": "a.png",
            "caption": {"zh_CN": ["一只猫"], "en": "a cat"},
            "text_en": "the cat",
            "questions": questions,
            "style": "flat",
            "width": 8,
            "boxes": [1, 2],
        }
    )
    assert (pair.id, pair.tags) == ("7", {"style": "flat", "width": "8"})
    assert pair.captions == {"en": ("a cat", "the cat"), "zh": ("一只猫",)}
    assert pair.questions == (
        Question(lang="en", text="What is it?", answers=("a cat", "a cat", "cat")),
        Question(lang="zh", text="几只？", answers=("一只",)),
    )
    assert pair.picture() == picture(1)


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"{", "no JSON: Expecting property name"),
        (b"[1]", "no JSON object but list"),
        (b'{"image": "a.png", "image": "b.png"}', "no JSON: a key stands twice in one object"),
        (b'{"image": "a.png", "caption": "\xff"}', "no JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "no JSON: "),
        ({"caption": "a cat"}, "no picture: none of image, file_name"),
        ({"image": "c.png", "caption": "a cat"}, "the picture 'c.png' is not there"),
        ({"image": "../x/a.png", "caption": "a cat"}, "the picture '../x/a.png' lies outside of"),
        ({"image": "/etc/passwd", "caption": "a cat"}, "the picture '/etc/passwd' lies outside of"),
        ({"image": "a.png\0", "caption": "a cat"}, r"'a.png\\x00' names no picture"),
        ({"image": "a" * 5000, "caption": "a cat"}, "the picture 'a+': File name too long"),
        ({"image": "a.png"}, "no caption$"),
        ({"image": "a.png", "caption": " "}, "no caption; an empty caption"),
        ({"image": "a.png", "caption": 7}, "a caption that is int, not a text"),
        ({"image": "a.png", "caption": "a cat", "lang": 7}, "a language that is int, not a text"),
        (
            {"image": "a.png", "caption": "un chat", "lang": "fr"},
            "no caption; a caption in 'fr', which",
        ),
        ({"image": "a.png", "caption": "\ud800"}, "no caption; a caption that is no Unicode"),
        ({"image": "a.png", "caption": "a", "id": [1]}, "its id is neither a text nor a number"),
        ({"image": "a.png", "caption": "a", "id": "\ud800"}, "its id is no text in Unicode"),
        ({"image": "a.png", "question": " "}, "a question without a text"),
        ({"image": "a.png", "question": "\ud800?"}, "a question that is no Unicode"),
    ],
)
def test_a_line_that_is_no_pair_is_told(line, reason, jsonl):
    good = {"image": "b.png", "caption": "a dog"}
    bad, pair = jsonl(line, good)
    assert bad.place == "x.jsonl line 1"
    assert pair.place == "x.jsonl line 2"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad.reason)
    assert bad.reason.encode()


def test_what_is_left_out_of_a_pair_is_its_fault(jsonl):
    (pair,) = jsonl({"image": "a.png", "caption": ["a cat", "", "a cat ", "ein \udcff"]})
    assert pair.captions == {"en": ("a cat",)}
    assert pair.faults == (
        "an empty caption",
        "a caption given twice",
        "a caption that is no Unicode",
    )


def test_one_id_with_two_pictures_is_two_pairs(jsonl):
    lines = [{"id": 1, "image": name, "caption": name} for name in ("a.png", "b.png")]
    assert [pair.captions["en"] for pair in jsonl(*lines)] == [("a.png",), ("b.png",)]


def test_a_bad_row_does_not_part_the_rows_of_a_picture(table):
    assert told(table("image,caption\na.png,one\na.png\na.png,two\n")) == [
        ("x.csv line 3", "1 cells under 2 names of columns"),
        ("a", "x.csv line 2", {"en": ("one", "two")}),
    ]


def test_a_row_without_a_caption_is_a_fault_of_its_pair(table):
    rows = "image,caption\na.png,\na.png,one\na.png,\nb.png,\nb.png,\n"
    pair, reject = table(rows)
    assert (pair.id, pair.captions) == ("a", {"en": ("one",)})
    assert pair.faults == ("an empty caption", "an empty caption")
    assert (reject.place, reject.id) == ("x.csv line 5", "b")
    assert reject.reason == "no caption"


def test_a_picture_with_two_captions_in_a_third_language_is_one_reject(jsonl):
    row = {"image": "a.png", "lang": "fr"}
    (reject,) = jsonl(row | {"caption": "un"}, row | {"caption": "deux"})
    assert reject.reason == "no caption; a caption in 'fr', which has no token (zh, en have)"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_names_may_be_written_in_either_way(form, tmp_path):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    put_pictures(tmp_path, unicodedata.normalize(form, "é.png"))
    line = {"image": unicodedata.normalize(other, "é.png"), "caption": "an e"}
    assert len(pairs_of(read_jsonl(put(tmp_path / "x.jsonl", line)))) == 1


def test_bom_crlf_and_no_last_end_of_line(table):
    content = b"\xef\xbb\xbfImage, Caption \r\na.png,a cat\r\nb.png,a dog"
    assert [pair.id for pair in table(content)] == ["a", "b"]


def test_cells_may_have_line_ends_and_quotes(table):
    first, second = table('image,caption\na.png,"a ""big""\ncat"\nb.png,a dog\n')
    assert first.captions == {"en": ('a "big"\ncat',)}
    assert second.place == "x.csv line 4"


def test_a_quote_that_is_never_closed_costs_its_own_line(table):
    rows = [f"a.png,a cat {number}" for number in range(3000)]
    rows[10] = 'a.png,"a cat'
    rows[20] = 'a.png,"a" cat'
    first, second, pair = table("\n".join(["image,caption", *rows]))
    assert (first.place, second.place) == ("x.csv line 12", "x.csv line 22")
    assert first.reason.startswith("no row of a table: ")
    assert len(pair.captions["en"]) == 2998


def test_quotes_have_no_meaning_between_tabs(table):
    (pair,) = table('image\tcaption\na.png\t"a cat\n', "x.tsv")
    assert pair.captions == {"en": ('"a cat',)}


@pytest.mark.parametrize(
    "content, place, reason",
    [
        ('image,"caption\na.png,a cat', 1, "no names of columns: unexpected end of data"),
        ("image,caption,caption\na.png,a,b", 1, "two columns 'caption'"),
        (b"image,caption\na.png,\xff\n", 2, "bytes that are no UTF-8"),
        ("image,caption\na.png,a,b", 2, "3 cells under 2 names of columns"),
        (
            "image,caption\na.png," + "a" * 200_000,
            2,
            "no row of a table: field larger than field limit",
        ),
    ],
)
def test_a_row_that_is_no_pair_is_told(content, place, reason, table):
    (item,) = table(content)
    assert item.place == f"x.csv line {place}"
    assert item.reason.startswith(reason)


def test_an_empty_file_has_no_items(table, jsonl):
    assert table("") == table("\n") == table("image,caption") == jsonl(b"") == []


def test_pictures_may_lie_elsewhere(tmp_path):
    put_pictures(tmp_path / "pictures", "a.png")
    path = put(tmp_path / "x.jsonl", {"image": "a.png", "caption": "a cat"})
    assert len(pairs_of(read_jsonl(path, tmp_path / "pictures"))) == 1
