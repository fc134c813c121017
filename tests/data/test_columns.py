"""Columns of pairs whose words and pictures anybody can count."""

import io

import pytest
from PIL import Image

from vilg.data.columns import columns_of, num_special
from vilg.data.pairs import Pair, Read, Reject


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "png")
    return stream.getvalue()


def pair(picture: Read | None, **captions: tuple[str, ...]) -> Pair:
    return Pair(id="x", place="here", picture=picture, captions=captions)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("A red apple, isn't it? (yes: 50% – “so”)", 0),
        ("红色的苹果，真的！《书》", 0),
        ("café naïve e\u0301 हिन्दी", 0),
        ("#sale @home", 2),
        ("a_b*c", 2),
        ("apple 🍎", 1),
        ("a\tb\nc", 0),
        ("a\x00b\u200bc\ufffd", 3),
        ("[x] {y} <z> = ~ | \\ ^ ` +", 13),
    ],
)
def test_special_characters(text: str, number: int) -> None:
    assert num_special(text) == number


def test_a_row_is_that_of_the_worst_caption() -> None:
    pytest.importorskip("textblob")
    (row,) = columns_of(
        [pair(lambda: png(30, 20), en=("a dog in a house", "run!", "#1 @ best"))],
    )
    assert row == {
        "id": "x",
        "place": "here",
        "language": "en",
        "captions": 3,
        "words": 5,
        "nouns": 0,
        "special": 2,
        "broken": False,
        "width": 30,
        "height": 20,
        "aspect": 1.5,
        "looks": "0" * 16,
    }


def test_languages_stand_beside_each_other() -> None:
    (row,) = columns_of([pair(None, zh=("猫",), en=("cat",))])
    assert (row["language"], row["captions"]) == ("en+zh", 2)
    assert "broken" not in row and "width" not in row


def test_a_pair_without_captions_has_no_words() -> None:
    (row,) = columns_of([pair(None)])
    assert (row["language"], row["captions"]) == ("", 0)
    assert row["words"] is row["nouns"] is row["special"] is None


def test_a_picture_that_cannot_be_read_and_an_item_that_is_no_pair() -> None:
    def missing() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    rows = columns_of(
        [
            pair(lambda: b"words", en=("dog",)),
            pair(missing, en=("dog",)),
            Reject(place="line 3", reason="no caption", id="y"),
            Reject(place="line 4", reason="no JSON"),
        ]
    )
    assert [row.get("broken") for row in rows] == [True, True, None, None]
    assert "not a readable picture" in rows[0]["why"]
    assert "No such file" in rows[1]["why"]
    assert rows[2] == {"id": "y", "place": "line 3", "reject": "no caption"}
    assert rows[3] == {"id": None, "place": "line 4", "reject": "no JSON"}
