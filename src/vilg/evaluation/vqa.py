"""Are answers right? The accuracy of VQAv2, exact match, and what a constant answer would get.

VQAv2's measure (Goyal et al., arXiv 1612.00837; its normalisation as visualqa.org/evaluation.html describes it)
compares with the answers that several people gave. It is written here from that description; the script behind the
official table differs from it in details, such as leaving agreeing people's punctuation as it is.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vilg.text import normalise

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = frozenset(("a", "an", "the"))
_NEGATED = [
    "are",
    "ca",
    "could",
    "did",
    "does",
    "do",
    "had",
    "has",
    "have",
    "is",
    "might",
    "must",
    "need",
    "should",
    "was",
    "were",
    "wo",
    "would",
]
_PRONOUNS = {"re": ["they", "you"], "ve": ["could", "i", "might", "should", "they", "would", "you"]}
# Without those that are words of their own: its, were, well, hell, shell, ill, id, wed.
_CONTRACTIONS = (
    {f"{word}nt": f"{word}n't" for word in _NEGATED}
    | {f"{word}{end}": f"{word}'{end}" for end, words in _PRONOUNS.items() for word in words}
    | {
        f"{word}s": f"{word}'s"
        for word in ["he", "she", "that", "there", "what", "where", "who", "how"]
    }
    | {f"{word}ll": f"{word}'ll" for word in ["they", "that", "you", "who"]}
    | {f"{word}d": f"{word}'d" for word in ["they", "you", "who"]}
    | {"im": "i'm", "oclock": "o'clock"}
)
# Fewer answers cannot all agree on full marks, since one is left out at a time.
FEWEST_PEOPLE = 4


def normal_answer(text: str) -> str:
    """Return an answer as VQAv2 compares it: lower case, no articles, digits for number words, no punctuation.

    Apostrophes, colons and decimal points stay; a comma between two digits goes without a space. Punctuation of any
    script counts, so that Chinese answers lose their full stop too.
    """
    text = re.sub(r"(?<=\d),(?=\d)|\.(?!\d)", "", normalise(text))
    spaced = "".join(
        " " if unicodedata.category(c)[0] in "PS" and c not in "':." else c for c in text
    )
    words = (_DIGITS.get(word, word) for word in spaced.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Return min(number of people who said so / 3, 1), the mean over leaving each of them out.

    Args:
        answer, people: normal answers.
    """
    same = sum(said == answer for said in people)
    if not same:
        return 0.0
    left_out_same, left_out_other = min((same - 1) / 3, 1.0), min(same / 3, 1.0)
    return (same * left_out_same + (len(people) - same) * left_out_other) / len(people)


def is_exact(answer: str, people: Sequence[str]) -> bool:
    """Say whether an answer is the commonest of people's, or one of several that are equally common."""
    counts = Counter(people)
    return counts[answer] == max(counts.values())


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of some questions, from 0 to 1.

    Attributes:
        questions: that people have answered.
        accuracy: VQAv2's; None unless each of them has at least `FEWEST_PEOPLE` answers.
        constant: the commonest answer of all people, to everything.
        constant_exact, constant_accuracy: what answering so would get. It is chosen on these very questions, so
            no constant answer does better by exact match.
    """

    questions: int
    exact: float
    accuracy: float | None
    constant: str
    constant_exact: float
    constant_accuracy: float | None


def scores(answers: Sequence[str], people: Sequence[Sequence[str]]) -> Scores | None:
    """Compare answers with those of people; None where there is nothing to compare with.

    Args:
        people: the answers of each question, as often as they were given; a question without is left out.
    """
    pairs = [
        (normal_answer(answer), [normal_answer(said) for said in those])
        for answer, those in zip(answers, people, strict=True)
        if those
    ]
    if not pairs:
        return None
    # The answer that is exact most often; of several the one that comes first.
    common = Counter(
        answer for _, those in pairs for answer in dict.fromkeys(those) if is_exact(answer, those)
    )
    ((constant, _),) = common.most_common(1)
    has_enough = all(len(those) >= FEWEST_PEOPLE for _, those in pairs)

    def mean(given: Sequence[str]) -> tuple[float, float | None]:
        both = list(zip(given, (those for _, those in pairs), strict=True))
        exact = sum(is_exact(*each) for each in both) / len(both)
        accuracy = sum(vqa_accuracy(*each) for each in both) / len(both) if has_enough else None
        return exact, accuracy

    exact, accuracy = mean([answer for answer, _ in pairs])
    constant_exact, constant_accuracy = mean([constant] * len(pairs))
    return Scores(
        questions=len(pairs),
        exact=exact,
        accuracy=accuracy,
        constant=constant,
        constant_exact=constant_exact,
        constant_accuracy=constant_accuracy,
    )
