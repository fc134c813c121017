"""What a source of pairs holds and what is wrong with it, from reading everything in it once.

Apart from `stats.py`, which reads no picture.
"""

import heapq
import re
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import get_context
from typing import Any

import numpy as np

from vilg.data.ids import hash_of
from vilg.data.pairs import Pair, Reject
from vilg.data.parts import second_of_one_id
from vilg.data.pictures import open_pair
from vilg.data.sources import Source
from vilg.errors import VilgError
from vilg.progress import Progress
from vilg.text import TextError, TextTokenizer

PLACES = 3  # of each kind of fault
_KINDS = 50  # of faults under one heading; every further one is counted as one kind
_OTHERS = "others"
_SHOWN = 24  # pictures on a contact sheet
_BATCH = 32
_ALONE = 256  # batches, 2 seconds' work
_MOST_AHEAD = 1024  # batches that wait for one that takes long
# What tells two faults of one kind apart: names in quotes, paths, numbers.
_PARTICULARS = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S*/\S*|(?<!UTF-)\d+")


@dataclass
class Fault:
    """How often there is a fault, and where first."""

    number: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.number += 1
        if len(self.places) < PLACES:
            self.places.append(place)


@dataclass
class Faults:
    """Faults by their kind: their reason without what is particular to one."""

    kinds: dict[str, Fault] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        kind = _PARTICULARS.sub("…", reason)
        if kind not in self.kinds and len(self.kinds) >= _KINDS:
            kind = _OTHERS
        self.kinds.setdefault(kind, Fault()).add(place)

    @property
    def number(self) -> int:
        """Return how many there are of all kinds."""
        return sum(fault.number for fault in self.kinds.values())


@dataclass
class Lengths:
    """How long texts are in tokens; a vocabulary has few lengths, so each is counted."""

    counts: Counter[int] = field(default_factory=Counter)

    def share(self, share: float) -> int:
        """Return the length that this share of the texts does not exceed; 0 where there are none."""
        below = 0
        for length, number in sorted(self.counts.items()):
            below += number
            if below >= share * self.counts.total():
                return length
        return 0

    def over(self, longest: int) -> int:
        """Return how many are longer."""
        return sum(number for length, number in self.counts.items() if length > longest)


@dataclass
class Findings:
    """What `check` found.

    Attributes:
        pictures: that can be read.
        untagged: captions whose language is told by their characters.
        usable: pairs with a picture that can be read and a text that the model reads, one of each id.
        rejects: items that are no pairs.
        texts: what is left out of pairs.
        broken: pictures that cannot be read.
        second: pairs of an id that an earlier usable pair has.
        examples: the first pairs, with what their pictures are.
        shown: a few pairs with pictures, from all over the source, in its order.
    """

    longest_text: int
    pairs: int = 0
    without_picture: int = 0
    pictures: int = 0
    captions: Counter[str] = field(default_factory=Counter)
    untagged: int = 0
    prompts: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    usable: int = 0
    rejects: Faults = field(default_factory=Faults)
    texts: Faults = field(default_factory=Faults)
    broken: Faults = field(default_factory=Faults)
    second: Faults = field(default_factory=Faults)
    lengths: Lengths = field(default_factory=Lengths)
    examples: list[tuple[Pair, str]] = field(default_factory=list)
    shown: list[Pair] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        lengths = self.lengths
        faults = ("rejects", "texts", "broken", "second")
        return {
            "pairs": self.pairs,
            "usable": self.usable,
            "pictures": self.pictures,
            "without_picture": self.without_picture,
            "captions": dict(sorted(self.captions.items())),
            "untagged": self.untagged,
            "prompts": dict(sorted(self.prompts.items())),
            "questions": dict(sorted(self.questions.items())),
            "answers": self.answers,
            "faults": {
                name: {
                    kind: {"number": fault.number, "places": fault.places}
                    for kind, fault in getattr(self, name).kinds.items()
                }
                for name in faults
            },
            "tokens": {
                "texts": lengths.counts.total(),
                "median": lengths.share(0.5),
                "share_95": lengths.share(0.95),
                "longest": lengths.share(1),
                "model_reads": self.longest_text,
                "longer": lengths.over(self.longest_text),
            },
            "examples": [
                {
                    "id": pair.id,
                    "place": pair.place,
                    "picture": picture,
                    "captions": dict(pair.captions),
                    "prompts": dict(pair.prompts),
                    "questions": [
                        {"lang": one.lang, "text": one.text, "answers": one.answers}
                        for one in pair.questions
                    ],
                    "tags": dict(pair.tags),
                }
                for pair, picture in self.examples
            ],
        }


def check(source: Source, words: TextTokenizer, max_text: int, helpers: int = 0) -> Findings:
    """Read all of a source, decode every picture, and turn every text into tokens.

    Args:
        max_text: tokens that a text may have at most, its language token included.
        helpers: further processes that look at pictures; a script that asks for any must guard its main module, as
            `multiprocessing` says.
    """
    found = Findings(max_text - 1)
    hashes, numbers = array("Q"), array("Q")  # of the usable pairs
    sheet: list[tuple[int, int, Pair]] = []
    num_items = 0
    with Progress("pairs", what="check") as progress:
        for item, look in _looked(source, words, helpers):
            num_items += 1
            progress(num_items, None)
            if look is None:
                assert isinstance(item, Reject)
                found.rejects.add(item.reason, item.place)
                continue
            assert isinstance(item, Pair)
            is_usable = _note(found, item, look)
            found.pairs += 1
            hash = hash_of(item.id)
            if is_usable:
                hashes.append(hash)
                numbers.append(found.pairs - 1)
            if look.broken is None and item.picture is not None:
                # Those whose hashes are the smallest are from all over the source, whatever its order.
                heapq.heappush(sheet, (-hash, -found.pairs, item))
                if len(sheet) > _SHOWN:
                    heapq.heappop(sheet)
    found.shown = [pair for _, _, pair in sorted(sheet, key=lambda one: -one[1])]
    again = second_of_one_id(np.frombuffer(hashes, np.uint64))
    found.usable = len(hashes) - len(again)
    if len(again):
        fault = found.second.kinds.setdefault("an earlier pair has this id", Fault())
        first = [numbers[row] for row in again[:PLACES].tolist()]
        fault.places += _places(source, first)
        fault.number = len(again)
    return found


def _places(source: Source, numbers: list[int]) -> Iterator[str]:
    """Yield where some pairs stand, by their numbers, which grow."""
    pairs = enumerate(item for item in source if isinstance(item, Pair))
    for number in numbers:
        pair = next(pair for i, pair in pairs if i == number)
        yield f"{pair.place} (id {pair.id})"


@dataclass(frozen=True)
class _Look:
    """What reading a pair shows.

    Attributes:
        lengths: of its captions, prompts and questions; None for a text that cannot be seen.
        answers: lengths of its answers, likewise.
        picture: its size.
        broken: why the picture cannot be read.
    """

    lengths: tuple[int | None, ...]
    answers: tuple[int | None, ...]
    picture: str
    broken: str | None


Looked = list[tuple[Pair | Reject, _Look | None]]


def _looked(
    items: Iterable[Pair | Reject], words: TextTokenizer, helpers: int
) -> Iterator[tuple[Pair | Reject, _Look | None]]:
    """Yield items in order, with what reading their pictures and texts shows.

    Helpers are processes, since Pillow's decoders keep the interpreter to themselves: three threads were as fast
    as one. They take seconds to load, so they are asked for the rest of a long source only, and while they load
    and are busy, this process looks too.
    """
    walking = iter(items)
    batches = iter(lambda: tuple(islice(walking, _BATCH)), ())
    for batch in islice(batches, _ALONE) if helpers else batches:
        yield from _look_at(batch, words)
    if not helpers:
        return
    context = get_context("spawn")  # a fork would copy torch's threads half
    with ProcessPoolExecutor(helpers, context, _hand_words, (words,)) as pool:
        ahead = deque[Future[Looked] | Looked]()
        while True:
            given = sum(isinstance(one, Future) and not one.done() for one in ahead)
            ahead += [
                pool.submit(_look_at, batch) for batch in islice(batches, 2 * helpers - given)
            ]
            if not ahead:
                return
            first = ahead[0]
            if isinstance(first, Future) and not first.done() and len(ahead) < _MOST_AHEAD:
                ahead += [_look_at(batch, words) for batch in islice(batches, 1)]
            else:
                ahead.popleft()
                yield from first.result() if isinstance(first, Future) else first


_words: TextTokenizer | None = None  # of a helper


def _hand_words(words: TextTokenizer) -> None:
    global _words
    _words = words


def _look_at(batch: tuple[Pair | Reject, ...], words: TextTokenizer | None = None) -> Looked:
    words = words or _words
    assert words is not None
    return [(item, _look(item, words) if isinstance(item, Pair) else None) for item in batch]


def _look(pair: Pair, words: TextTokenizer) -> _Look:
    picture, broken = "no picture", None
    if pair.picture is not None:
        try:
            opened = open_pair(pair)
            picture = f"{opened.width} x {opened.height} pixels"
        except VilgError as error:
            broken = str(error)
    texts = [text for some in (pair.captions, pair.prompts) for text in chain(*some.values())]
    texts += [question.text for question in pair.questions]
    answers = [answer for question in pair.questions for answer in question.answers]
    lengths, of_answers = (
        tuple(_length(text, words) for text in some) for some in (texts, answers)
    )
    return _Look(lengths, of_answers, picture, broken)


def _length(text: str, words: TextTokenizer) -> int | None:
    try:
        return len(words.encode(text))
    except TextError:
        return None


def _note(found: Findings, pair: Pair, look: _Look) -> bool:
    """Add a pair to what is found; say whether a model can be trained on it."""
    for lang, texts in pair.captions.items():
        found.captions[lang] += len(texts)
    for lang, texts in pair.prompts.items():
        found.prompts[lang] += len(texts)
    for question in pair.questions:
        found.questions[question.lang] += 1
        found.answers += len(question.answers)
    found.untagged += pair.untagged
    for fault in pair.faults:
        found.texts.add(fault, pair.place)
    for length in look.lengths + look.answers:
        if length is None:
            found.texts.add("a text without a visible character", pair.place)
            continue
        found.lengths.counts[length] += 1
        if length > found.longest_text:
            found.texts.add("a text longer than the model reads", pair.place)
    if look.broken is not None:
        found.broken.add(look.broken, pair.place)
    elif pair.picture is None:
        found.without_picture += 1
    else:
        found.pictures += 1
    if len(found.examples) < PLACES:
        found.examples.append((pair, look.broken or look.picture))
    fits = any(length is not None and length <= found.longest_text for length in look.lengths)
    return fits and look.broken is None and pair.picture is not None
