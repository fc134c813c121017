"""Words and nouns of sentences that anybody can count."""

import pytest

from vilg.data.words import counter_of

ENGLISH = [
    ("A red apple on the table", 6, 2),
    ("cats", 1, 1),
    ("running quickly", 2, 0),
    ("it is very red and shiny", 6, 0),
    ("two dogs, a bird and London", 6, 3),
]
CHINESE = [
    ("红色的苹果", 3, 2),  # 红色 的 苹果: a colour is a noun in Chinese grammar
    ("快速地奔跑", 3, 0),
    ("一只猫，和一只狗。", 5, 2),
]


@pytest.mark.parametrize(("text", "words", "nouns"), ENGLISH)
def test_english(text: str, words: int, nouns: int) -> None:
    pytest.importorskip("textblob")
    assert counter_of("en").count(text) == (words, nouns)


@pytest.mark.parametrize(("text", "words", "nouns"), CHINESE)
def test_chinese(text: str, words: int, nouns: int) -> None:
    pytest.importorskip("rjieba")
    assert counter_of("zh").count(text) == (words, nouns)


def test_without_a_tagger_words_are_counted_and_nouns_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vilg.data.words.find_spec", lambda name: None)
    counter_of.cache_clear()
    try:
        assert counter_of("en").count("a red  apple") == (3, None)
        assert counter_of("zh").count("红色的 苹果，iPhone 3 号") == (8, None)
    finally:
        counter_of.cache_clear()


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(
    "text",
    ["/", "a/b //", "&slash;", "...", "\\", "🙂", "a" * 5000, "\x00", "<b>\n\n", "a\u0301 -"],
)
def test_odd_texts_are_counted_too(lang: str, text: str) -> None:
    words, nouns = counter_of(lang).count(text)
    assert words >= 0
    assert nouns is None or nouns >= 0
