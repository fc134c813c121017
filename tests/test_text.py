"""Normalisation, vocabulary and the round trip of `vilg.text`."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vilg.errors import VilgError
from vilg.text import (
    LANGUAGES,
    TextError,
    TextTokenizer,
    guess_language,
    normalise,
    tidy,
    train_vocabulary,
)

TEXTS = [
    "grinning face with big eyes",
    "Grinning cat, grinning face",
    "keycap: 3",
    "piñata",
    "笑得很开心",
    "脸（红色）",
]
NUM_PIECES = 20
SPACE = "\u2581"

# Drawn at random alone, text seldom holds what the code treats apart.
TROUBLE = st.sampled_from(
    [
        " ",
        "\t",
        "\u3000",
        "\u2028",
        SPACE,
        "\ue000",
        "\ue0ff",
        "[zh]",
        "[PAD]",
        "face",
        "脸",
        "\u0130",
        "\u03a3",
        "\u0307",
        "\u212a",
        "\uff21",
        "\uff19",
        "\u200b",
        "\x00",
        "\ud800",
        "3",
    ]
)
ANY_TEXT = st.lists(st.one_of(TROUBLE, st.text(max_size=6)), max_size=12).map("".join)


TOKENIZER = train_vocabulary(TEXTS, NUM_PIECES)  # immutable, so that all tests may share it


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TOKENIZER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Red \t\n Apple ", "red apple"),
        ("\uff21\uff22\uff43\uff11", "abc1"),
        (
            "苹果\u3000，。：（）",
            "苹果 ，。：（）",
        ),
        ("Cafe\u0301", "café"),
        ("\u212a", "k"),
        ("a\x00b\x7fc\u200bd\ufeff", "abcd"),
        ("a\x1fb\x85c\u2028d", "a b c d"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("\ud800", "\ufffd"),
        ("\x00 \u200b", ""),
    ],
)
def test_normalise_examples(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_normalise_is_idempotent_on_every_character() -> None:
    for code in range(0x30000):  # beyond lie only ideographs, tags and private use
        character = chr(code)
        for text in (character, f"a{character}b", f"{character}\u0301"):
            once = normalise(text)
            assert normalise(once) == once, hex(code)


@settings(derandomize=True, deadline=None, max_examples=500)
@given(ANY_TEXT)
@example("\u0130\u0301")
@example("A\u03a3\u200b\u03a3")
def test_normalise_is_idempotent_and_clean(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())
    once.encode("utf-8")


@settings(derandomize=True, deadline=None, max_examples=500)
@given(ANY_TEXT.filter(normalise))
@example(f"{SPACE}a {SPACE} a{SPACE}")
@example("[zh][en][PAD][UNK][BOI][EOS]")
@example("\ue000\ue0ff\ue041")
def test_round_trip_is_lossless_and_free_of_specials(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == normalise(text)
    assert min(ids) >= TOKENIZER.language_id("en") + 1
    assert max(ids) < len(TOKENIZER)
    assert TOKENIZER.encode(normalise(text)) == ids


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1)))
def test_any_generated_ids_decode(ids: list[int]) -> None:
    TOKENIZER.decode(ids).encode("utf-8")
    assert len(TOKENIZER.token_strings(ids)) == len(ids)


def test_layout_of_the_vocabulary(tokenizer: TextTokenizer) -> None:
    strings = tokenizer.token_strings(range(len(tokenizer)))
    assert strings[:6] == ["[PAD]", "[UNK]", "[BOI]", "[EOS]", "[zh]", "[en]"]
    assert strings[6:262] == [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = [piece for piece in strings[262:] if len(piece) == 1]
    assert strings[262 : 262 + len(alphabet)] == sorted(alphabet)
    assert len(strings) == 262 + len(alphabet) + NUM_PIECES
    assert (tokenizer.pad_id, tokenizer.boi_id, tokenizer.eos_id) == (0, 2, 3)
    assert [tokenizer.language_id(lang) for lang in LANGUAGES] == [4, 5]


def test_alphabet_holds_gb2312_level_1_and_the_texts(tokenizer: TextTokenizer) -> None:
    alphabet = set(tokenizer.token_strings(range(262, len(tokenizer))))
    level_1 = {
        bytes((row, cell)).decode("gb2312")
        for row in range(0xB0, 0xD8)
        for cell in range(0xA1, 0xFF if row < 0xD7 else 0xFA)
    }
    assert len(level_1) == 3755
    assert level_1 <= alphabet
    assert set("，。：（）ñ!~[]") <= alphabet
    assert not alphabet & set("AZ ")
    assert all(normalise(piece) == piece for piece in alphabet)


def test_pieces(tokenizer: TextTokenizer) -> None:
    def spell(text: str) -> list[str]:
        return tokenizer.token_strings(tokenizer.encode(text))

    assert spell("Face FACE") == [f"{SPACE}face", f"{SPACE}face"]
    assert spell("keycap 33")[-2:] == [f"{SPACE}3", "3"]
    assert spell("红脸 脸") == ["红", "脸", SPACE, "脸"]
    assert spell("[zh]") == ["[", "z", "h", "]"]
    assert spell("\U0001f600") == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert spell(SPACE) == ["<0xE2>", "<0x96>", "<0x81>"]


def test_a_letter_outside_the_alphabet_starts_a_word_like_any_other(
    tokenizer: TextTokenizer,
) -> None:
    first = tokenizer.encode("ö")
    assert tokenizer.encode("face ö") == tokenizer.encode("face") + first


def test_decode_leaves_specials_out_and_survives_broken_bytes(tokenizer: TextTokenizer) -> None:
    face = tokenizer.encode("face")
    assert tokenizer.decode([4, *face, tokenizer.eos_id, tokenizer.pad_id]) == "face"
    assert tokenizer.decode([6 + 0xE4, *face]) == "\ufffd face"
    assert tokenizer.decode([]) == ""


def test_a_very_long_word_is_no_trouble(tokenizer: TextTokenizer) -> None:
    text = "facefaces" * 20_000
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", "  \n", "\x00\u200b"])
def test_empty_text_is_an_error(tokenizer: TextTokenizer, text: str) -> None:
    with pytest.raises(TextError, match="empty"):
        tokenizer.encode(text)


@pytest.mark.parametrize("id", [-1, sys.maxsize])
def test_unknown_ids_are_errors(tokenizer: TextTokenizer, id: int) -> None:
    with pytest.raises(TextError, match="no token"):
        tokenizer.decode([id])
    with pytest.raises(TextError, match="no token"):
        tokenizer.token_strings([id])


def test_unknown_language_is_an_error_that_lists_the_known(tokenizer: TextTokenizer) -> None:
    with pytest.raises(TextError, match="zh, en"):
        tokenizer.language_id("fr")
    assert issubclass(TextError, VilgError)


def test_training_ignores_order_and_keeps_to_its_budget() -> None:
    forwards = train_vocabulary(TEXTS, NUM_PIECES)
    backwards = train_vocabulary(reversed(TEXTS), NUM_PIECES)
    assert forwards.fingerprint == backwards.fingerprint
    none = train_vocabulary(TEXTS, 0)
    assert len(none) == len(forwards) - NUM_PIECES
    assert none.decode(none.encode("big eyes")) == "big eyes"
    assert none.fingerprint != forwards.fingerprint
    with pytest.raises(TextError, match="0 or more"):
        train_vocabulary(TEXTS, -1)


def test_the_commonest_words_are_whole_and_the_others_have_parts() -> None:
    words = [f"{a}{b}ll{b}{a}" for a in "bcdfg" for b in "aeiou"]
    texts = [" ".join([word] * (30 - i)) for i, word in enumerate(words)]
    pieces = train_vocabulary(texts, 20).token_strings(range(len(train_vocabulary(texts, 20))))
    assert pieces[-20:-5] == [f"{SPACE}{word}" for word in words[:15]]
    assert not {*pieces[-5:]} & {f"{SPACE}{word}" for word in words}


def test_training_on_nothing_still_encodes_everything() -> None:
    bare = train_vocabulary([])
    text = "grinning 脸 ñ \U0001f600"
    assert bare.decode(bare.encode(text)) == text


def test_marks_and_private_characters_in_training_texts_stay_outside_the_alphabet() -> None:
    hostile = train_vocabulary([f"a{SPACE}b\ue041 big"], 10)
    assert not {SPACE * 2, f"a{SPACE}b"} & set(hostile.token_strings(range(len(hostile))))
    assert hostile.encode("x \ue041")[-3:] == [6 + byte for byte in "\ue041".encode()]
    for text in (f"a{SPACE}b", "\ue041", "a b"):
        assert hostile.decode(hostile.encode(text)) == text


def test_save_and_load_keep_everything(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = TextTokenizer.from_file(path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("Face: 脸 \U0001f600") == tokenizer.encode("Face: 脸 \U0001f600")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.json", "tokenizer.json"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"model": {"vocab": null}}', '{"model": {"vocab": {"[PAD]": 0}}}'],
)
def test_a_file_of_something_else_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TextError, match="not a text tokenizer"):
        TextTokenizer.from_file(path)


def test_damaged_vocabularies_are_errors(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TextError, match="another order"):
        TextTokenizer.from_file(path)
    del vocabulary["a"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TextError, match="not a text tokenizer"):
        TextTokenizer.from_file(path)


def test_missing_and_unwritable_files_are_errors(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="Cannot read"):
        TextTokenizer.from_file(tmp_path / "missing.json")
    with pytest.raises(TextError, match="Cannot write"):
        tokenizer.save(tmp_path / "missing" / "tokenizer.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TextError, match="Cannot write"):
        tokenizer.save(tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("red apple", "en"),
        ("红苹果", "zh"),
        ("T恤", "zh"),
        ("", "en"),
        ("，", "en"),
    ],
)
def test_guess_language(text: str, lang: str) -> None:
    assert guess_language(text) == lang


def test_words_are_what_a_reader_takes_for_words() -> None:
    """A word whole, a Chinese character, a digit, a character that is spelled in bytes."""
    shipped = Path(__file__).parents[1] / "datasets/emoji/tokenizer.json"
    tokenizer = TextTokenizer.from_file(shipped)
    for text, expected in {
        "unbelievable crocodiles": ["unbelievable", "crocodiles"],
        "red苹果，3d": ["red", "苹", "果", "，", "3", "d"],
        "red 龘 x": ["red", "龘", "x"],
        "龘龘": ["龘", "龘"],
    }.items():
        ids, places = tokenizer.encode(text), tokenizer.words(text)
        assert [i for place in places for i in place] == list(range(len(ids)))
        found = [tokenizer.decode(ids[place.start : place.stop]).strip() for place in places]
        assert found == expected, found


@pytest.mark.parametrize(
    ("typed", "tidied"),
    [
        ("whale,flat style", "whale, flat style"),
        ("  Whale ,  FLAT style", "whale, flat style"),
        ("whale，flat style", "whale, flat style"),
        ("鲸鱼, 扁平风格", "鲸鱼，扁平风格"),
        ("鲸鱼,Noto风格", "鲸鱼，noto风格"),
        ("蘋果， 三維風格", "苹果，三维风格"),
        ("1,000 stars , 2, 3", "1,000 stars, 2, 3"),
        ("whale, flat style", "whale, flat style"),
        ("龘", "龘"),
    ],
)
def test_how_a_prompt_was_typed_decides_nothing(typed: str, tidied: str) -> None:
    alphabet = {*"苹果鲸鱼，三维扁平风格"}
    assert tidy(typed, alphabet) == tidied
    assert tidy(tidied, alphabet) == tidied


def test_a_prompt_with_no_known_character_is_refused() -> None:
    words = train_vocabulary(["苹果"], 0)
    with pytest.raises(TextError, match="knows none of the characters of '🍎い'"):
        words.tidy("🍎い")
    assert words.tidy("🍎苹") == "🍎苹"
