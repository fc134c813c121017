"""What can be told of a pair without a model, as the columns that pairs are chosen by.

| column | holds |
|---|---|
| language | of its captions: "en", "zh", or "en+zh" |
| captions | how many there are |
| words, special | of the caption that has most |
| nouns | of the caption that has fewest; empty where no tagger is installed for a language |
| broken | whether its picture cannot be read |
| width, height | pixels, upright |
| aspect | the longer side by the shorter: 1 is a square |
| looks | 64 bits of what it looks like (`likes.looks_of`), as 16 hexadecimal digits |

So a rule about captions holds for a pair where it holds for each of its captions.
"""

import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from vilg.data.likes import looks_of
from vilg.data.lines import Row
from vilg.data.pairs import Pair, Reject
from vilg.data.pictures import open_pair
from vilg.data.words import counter_of
from vilg.images import ImageError

NUMBERS = ("captions", "words", "special", "nouns", "broken", "width", "height", "aspect")
TEXTS = ("language",)

# What sentences are written with; all letters, marks and digits besides.
_PLAIN = frozenset(" .,;:!?'\"()-–—…/&%’‘“”、。，；：！？（）《》〈〉「」『』·～～￥$€£°")


def num_special(text: str) -> int:
    """Return how many characters of a text are special.

    Those are all but letters, their accents, digits, spaces and the punctuation of sentences: `# @ * _ = + < >
    | \\ ^ ~ [ ] { }` and a backtick, emoji, arrows, boxes, control characters, U+FFFD.
    """
    text = " ".join(text.split())
    return sum(
        character not in _PLAIN and unicodedata.category(character)[0] not in "LMN"
        for character in text
    )


def columns_of(items: Sequence[Pair | Reject]) -> list[Row]:
    """Return a row for each item; of a reject, its place and the reason."""
    with ThreadPoolExecutor(2) as pool:
        pictures = pool.map(_of_picture, items)
        texts = [_of_texts(item) for item in items]
        return [
            {"id": item.id, "place": item.place, **text, **picture}
            for item, text, picture in zip(items, texts, pictures, strict=True)
        ]


def _of_texts(item: Pair | Reject) -> Row:
    if isinstance(item, Reject):
        return {"reject": item.reason}
    captions = [(lang, text) for lang, texts in item.captions.items() for text in texts]
    counts = [counter_of(lang).count(text) for lang, text in captions]
    nouns = [number for _, number in counts if number is not None]
    return {
        "language": "+".join(sorted(item.captions)),
        "captions": len(captions),
        "words": max((number for number, _ in counts), default=None),
        "nouns": min(nouns) if nouns and len(nouns) == len(counts) else None,
        "special": max((num_special(text) for _, text in captions), default=None),
    }


def _of_picture(item: Pair | Reject) -> Row:
    if isinstance(item, Reject) or item.picture is None:
        return {}
    try:
        picture = open_pair(item)
    except ImageError as error:
        return {"broken": True, "why": str(error)}
    width, height = picture.size
    return {
        "broken": False,
        "width": width,
        "height": height,
        "aspect": round(max(width, height) / min(width, height), 3),
        "looks": f"{looks_of(picture):016x}",
    }
