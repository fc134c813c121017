"""How many words and nouns a caption has, by taggers whose models lie in their wheels.

English: words are what spaces part; nouns are those of TextBlob's PatternTagger. Chinese: words and nouns
are jieba's (its dictionary and model in Rust, `rjieba`), punctuation left out. Without that package a
Chinese word is a character; without a language's tagger nothing is known of its nouns.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

from vilg.text import IDEOGRAPH

Count = Callable[[str], tuple[int, int | None]]

_CHARACTER = re.compile(rf"{IDEOGRAPH.pattern}|[^\W_]+?(?={IDEOGRAPH.pattern})|[^\W_]+")


@dataclass(frozen=True)
class Counter:
    """Counts words and nouns of one language; None for nouns where it knows none.

    Attributes:
        by: what counts them, with its version.
    """

    by: str
    count: Count


@cache
def counter_of(lang: str) -> Counter:
    """Return what counts the words of a language best here."""
    if lang == "zh":
        if find_spec("rjieba"):
            return Counter(f"rjieba {version('rjieba')}", _count_by_jieba)
        return Counter("characters", lambda text: (len(_CHARACTER.findall(text)), None))
    if lang == "en" and find_spec("textblob"):
        return Counter(f"textblob {version('textblob')}", _load_pattern_tagger())
    return Counter("spaces", lambda text: (len(text.split()), None))


def _count_by_jieba(text: str) -> tuple[int, int]:
    from rjieba import tag

    # Tags are ICTCLAS's, in which those of nouns begin with n: people, places, works, and plain ones.
    tags = [kind for word, kind in tag(text) if any(map(str.isalnum, word))]
    return len(tags), sum(kind.startswith("n") for kind in tags)


def _load_pattern_tagger() -> Count:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the files of its lexicon open
        from textblob.en import tag

        tag("a word")

    def count(text: str) -> tuple[int, int]:
        # Tags are Penn Treebank's, in which those of nouns are NN, NNS, NNP and NNPS.
        return len(text.split()), sum(kind.startswith("NN") for _, kind in tag(text))

    return count
