"""What a data set contains, as numbers.

Apart from the command that prints them so that a test, a model card and a person read the same
ones.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from vilg.data.shards import Sample
from vilg.text import IDEOGRAPH


def describe(
    samples: Sequence[Sample], splits: Mapping[str, Collection[str]] | None = None
) -> dict[str, Any]:
    """Count samples, and measure their captions.

    Args:
        samples: What to describe.
        splits: The ids of each split; ids that are not among the samples do not count.

    Returns:
        A dict that JSON can hold, every inner dict sorted by name: "samples", "concepts",
        "picture_bytes", counts by "style", "group" and "split", and by language "captions"
        (count, and length in characters) and "distinct_characters" of captions and keywords;
        "chinese_characters" counts the distinct ones of all languages together.
    """
    ids = {sample.id for sample in samples}
    languages = sorted({language for sample in samples for language in sample.captions})
    texts = {language: list(_texts(samples, language)) for language in languages}
    return {
        "samples": len(samples),
        "concepts": len({sample.concept for sample in samples}),
        "picture_bytes": sum(len(sample.picture) for sample in samples),
        "style": _count(sample.style for sample in samples),
        "group": _count(sample.group for sample in samples),
        "split": {
            split: len(ids.intersection(members))
            for split, members in sorted((splits or {}).items())
        },
        "captions": {
            language: _lengths(
                [caption for sample in samples for caption in sample.captions.get(language, ())]
            )
            for language in languages
        },
        "distinct_characters": {
            language: len(set().union(*texts[language])) for language in languages
        },
        "chinese_characters": len(
            {found for some in texts.values() for text in some for found in IDEOGRAPH.findall(text)}
        ),
    }


def _texts(samples: Iterable[Sample], language: str) -> Iterable[str]:
    for sample in samples:
        yield from sample.captions.get(language, ())
        yield from sample.keywords.get(language, ())


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _lengths(captions: Sequence[str]) -> dict[str, float]:
    """Return how many captions there are and how many characters they have."""
    lengths = [len(caption) for caption in captions]
    return {
        "count": len(lengths),
        "shortest": min(lengths, default=0),
        "mean": round(mean(lengths), 2) if lengths else 0,
        "longest": max(lengths, default=0),
    }
