"""Trains the text vocabulary on the emoji data set and writes its tokenizer.json.

    python datasets/emoji/build_vocabulary.py [--data datasets/emoji] [--out FILE]

A few seconds on one core. Two runs write equal bytes. Checkpoints hold the fingerprint that it
prints: a new vocabulary needs newly trained models.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vilg.data.pairs import Pair
from vilg.data.sources import load_pairs
from vilg.errors import VilgError
from vilg.text import LANGUAGES, TextTokenizer, normalise, train_vocabulary

NUM_WORD_PIECES = 4000

# A name is the target of every caption, a keyword only an occasional source. At this weight
# nearly all words of names rank before the words that only keywords have.
NAME_WEIGHT = 10

# What captions of composed scenes and questions about them will say. The emoji hardly use these
# words, and a vocabulary cannot grow once models are trained with it.
SCENE_TEXTS = (
    "a an the one two three four five of and with no on in at is are there it this that",
    "left right above below top bottom between next to behind middle corner left of right of",
    "plain background ground scene picture image emoji style drawn",
    "red orange yellow green blue purple pink brown black white gray grey light dark",
    "how many what which where who color colour count number kind yes no",
    "一二三四五两个只张在的和有没左右上下边面中间旁背景纯色红橙黄绿蓝紫粉棕黑白灰浅深风格表情",
    "多少几什么哪里颜色是不图片画",
)


def training_texts(pairs: Iterable[Pair]) -> Iterator[str]:
    """Yield the texts of the pairs, each as often as it shall count.

    Names and keywords count once a concept, whatever the number of artists who drew it: the
    words of country names, which few artists drew, would otherwise lose to common keywords.
    """
    for _ in range(NAME_WEIGHT):
        yield from SCENE_TEXTS
    concepts: set[str] = set()
    for pair in pairs:
        is_new = pair.tags["concept"] not in concepts
        concepts.add(pair.tags["concept"])
        for lang in LANGUAGES:
            yield from pair.captions[lang]
            if is_new:
                name, [caption] = pair.tags[f"name.{lang}"], pair.captions[lang]
                yield from [name] * NAME_WEIGHT
                end = caption.removeprefix(name)  # comma and style
                yield from (prompt.removesuffix(end) for prompt in pair.prompts[lang])


def measure_captions(tokenizer: TextTokenizer, captions: Iterable[str]) -> dict[str, float]:
    """Return the mean, 99th percentile and maximum of tokens per caption."""
    lengths = sorted(len(tokenizer.encode(caption)) for caption in captions)
    return {
        "mean": round(sum(lengths) / len(lengths), 2),
        "p99": lengths[int(0.99 * (len(lengths) - 1))],
        "max": lengths[-1],
    }


def measure(tokenizer: TextTokenizer, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return how well the vocabulary fits the pairs."""
    names = {normalise(pair.tags["name.en"]) for pair in pairs}
    words = {word for name in names for word in name.split() if word.isalpha()}
    whole = sum(len(tokenizer.encode(word)) == 1 for word in words)
    return {
        "vocabulary": len(tokenizer),
        "fingerprint": tokenizer.fingerprint,
        "tokens_per_caption": {
            lang: measure_captions(
                tokenizer, (caption for pair in pairs for caption in pair.captions[lang])
            )
            for lang in LANGUAGES
        },
        "english_name_words": len(words),
        "share_of_them_that_are_one_token": round(whole / len(words), 4),
    }


def main() -> int:
    """Read the command line, train and write; an error is one line on stderr and exit status 2."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Train the vocabulary of the emoji data set.")
    parser.add_argument("--data", type=Path, default=here, help="folder of the built data set")
    parser.add_argument("--out", type=Path, default=here / "tokenizer.json", help="file to write")
    options = parser.parse_args()
    try:
        # Held-out texts stay out: their tokens would have no trained embedding.
        train = load_pairs(options.data, split="train")
        tokenizer = train_vocabulary(training_texts(train), NUM_WORD_PIECES)
        tokenizer.save(options.out)
        figures = measure(tokenizer, load_pairs(options.data))
    except VilgError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
