"""What a source of pairs contains, as numbers.

Apart from the command that prints them so that a test, a model card and a person read the same
ones. Reads no picture: what is wrong with a source is told by `check.py`.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vilg.data.pairs import Pair, Reject
from vilg.progress import Progress
from vilg.text import IDEOGRAPH

TOP = 10  # values of a tag that are listed
# A tag of more values is a name or an address, one a pair, and would fill the memory.
MOST_VALUES = 10_000
MOST_TAGS = 200


def describe(
    items: Iterable[Pair | Reject], splits: Mapping[str, Container[str]] | None = None
) -> dict[str, Any]:
    """Count pairs and their tags, and measure their captions.

    Args:
        splits: The ids of each split; ids that are not among the pairs do not count.

    Returns:
        A dict that JSON can hold: "pairs", "rejects", "questions", and by language "captions" (count,
        and length in characters), "prompts" and "distinct_characters" of both; "chinese_characters"
        counts the distinct ones of all languages together. "split" counts pairs, and "tags" has for
        each tag how many pairs and values there are, with the commonest: None for too many values.
    """
    counts = Counter({"pairs": 0, "rejects": 0, "questions": 0})
    captions: dict[str, _Lengths] = {}
    prompts, in_split = Counter[str](), Counter(dict.fromkeys(splits or {}, 0))
    characters: dict[str, set[str]] = {}
    tags: dict[str, _Values] = {}
    with Progress("pairs", what="stats") as progress:
        for number, item in enumerate(items, 1):
            progress(number, None)
            if isinstance(item, Reject):
                counts["rejects"] += 1
                continue
            counts["pairs"] += 1
            counts["questions"] += len(item.questions)
            for lang, texts in item.captions.items():
                captions.setdefault(lang, _Lengths()).add(texts)
                characters.setdefault(lang, set()).update(*texts)
            for lang, texts in item.prompts.items():
                prompts[lang] += len(texts)
                characters.setdefault(lang, set()).update(*texts)
            for tag, value in item.tags.items():
                if tag in tags or len(tags) < MOST_TAGS:
                    tags.setdefault(tag, _Values()).add(value)
            in_split.update(split for split, ids in (splits or {}).items() if item.id in ids)
    return {
        **counts,
        "split": dict(sorted(in_split.items())),
        "captions": {lang: lengths.as_dict() for lang, lengths in sorted(captions.items())},
        "prompts": dict(sorted(prompts.items())),
        "distinct_characters": {lang: len(some) for lang, some in sorted(characters.items())},
        "chinese_characters": sum(
            map(bool, map(IDEOGRAPH.match, set[str]().union(*characters.values())))
        ),
        "tags": {tag: values.as_dict() for tag, values in sorted(tags.items())},
    }


@dataclass
class _Lengths:
    count: int = 0
    shortest: int = 0
    total: int = 0
    longest: int = 0

    def add(self, texts: Iterable[str]) -> None:
        for length in map(len, texts):
            self.shortest = min(self.shortest, length) if self.count else length
            self.longest = max(self.longest, length)
            self.total += length
            self.count += 1

    def as_dict(self) -> dict[str, float]:
        mean = round(self.total / self.count, 2) if self.count else 0
        return {
            "count": self.count,
            "shortest": self.shortest,
            "mean": mean,
            "longest": self.longest,
        }


@dataclass
class _Values:
    pairs: int = 0
    counts: Counter[str] | None = field(default_factory=Counter)

    def add(self, value: str) -> None:
        self.pairs += 1
        if self.counts is not None:
            self.counts[value] += 1
            if len(self.counts) > MOST_VALUES:
                self.counts = None

    def as_dict(self) -> dict[str, Any]:
        found = sorted((self.counts or {}).items(), key=lambda one: (-one[1], one[0]))
        number = None if self.counts is None else len(self.counts)
        return {"pairs": self.pairs, "values": number, "top": dict(found[:TOP])}
