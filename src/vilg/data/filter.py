"""Which pairs are worth training on? Columns are measured once, thresholds applied to them late.

The paper kept 70 of 800 million pairs from the web by rules and a matching score (section 4.1); `PAPER` has
its rules.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vilg.data.columns import NUMBERS, TEXTS, columns_of
from vilg.data.ids import hash_of
from vilg.data.likes import MOST_BITS, near_an_earlier
from vilg.data.lines import Row, made_from, read_lines_of, write_lines
from vilg.data.pairs import DataError
from vilg.data.parts import LeftOut, Worker, check_share, second_of_one_id
from vilg.data.sources import Source
from vilg.data.words import counter_of
from vilg.files import open_whole
from vilg.text import LANGUAGES

PAPER = ("words<15", "nouns>=1", "special=0", "matching>0.5")
COLUMNS, MATCHING = "columns.jsonl", "matching.jsonl"
KEPT, REJECTS = "kept.txt", "rejects.jsonl"

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<=": le,
    ">=": ge,
    "!=": ne,
    "<": lt,
    ">": gt,
    "=": eq,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|<|>|=)\s*(.*?)\s*")
_OWN_ID, _READABLE = "an id of its own, in one line", "a picture that can be read"
_BROKEN = 1  # the second rule
_NONE = 32  # of 32 rules, the one that a pair fails which is kept
_MOST_RULES = 29  # and three that are no conditions


@dataclass(frozen=True)
class Rule:
    """What a column must be for a pair to stay."""

    column: str
    compare: str
    value: float | str

    @property
    def name(self) -> str:
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        return f"{self.column}{self.compare}{value}"

    def holds(self, row: Row) -> bool | None:
        """Say whether a pair may stay; None where the column is empty, so that it does not apply."""
        found = row.get(self.column)
        return None if found is None else _COMPARE[self.compare](found, self.value)


def parse_rule(condition: str) -> Rule:
    """Read a condition such as "words<15" or "language=zh".

    Raises:
        DataError: no condition, no such column, or a value that the column cannot have.
    """
    match = _CONDITION.fullmatch(condition)
    columns = (*NUMBERS, "matching", *TEXTS)
    if not match or match[1] not in columns:
        raise DataError(
            f"{condition!r} is no condition: write COLUMN>VALUE with a column of {', '.join(columns)}, "
            f"and one of {' '.join(_COMPARE)}"
        )
    column, compare, value = match.groups()
    if column in TEXTS:
        if compare not in ("=", "!=") or not value:
            raise DataError(f"{condition!r}: {column} is a text, which is = or != another")
        return Rule(column, compare, value)
    try:
        number = float(value)
    except ValueError as error:
        raise DataError(f"{condition!r}: {value!r} is no number, and {column} is one") from error
    if number != number:
        raise DataError(f"{condition!r}: nothing can be compared with {value}")
    return Rule(column, compare, number)


@dataclass(frozen=True)
class RuleCount:
    """How many pairs a rule removes.

    Attributes:
        alone: of all pairs.
        in_order: of those that the rules before it have left.
        left: after it.
        not_told: pairs whose column is empty; the rule does not apply to them and they stay.
    """

    name: str
    alone: int
    in_order: int
    left: int
    not_told: int


@dataclass(frozen=True)
class Chosen:
    """What was kept, and what each rule removed."""

    items: int
    rejects: int
    rules: tuple[RuleCount, ...]

    @property
    def pairs(self) -> int:
        return self.items - self.rejects

    @property
    def kept(self) -> int:
        return self.rules[-1].left


def write_columns(source: Source, out: Path, worker: Worker | None = None) -> bool:
    """Measure what needs no model; return whether all of it is there, or other workers are still at it.

    Raises:
        DataError: the folder is read itself, or has columns of something else.
    """
    source.check_outside(out)
    words = {lang: counter_of(lang).by for lang in LANGUAGES}
    return write_lines(
        source,
        out / COLUMNS,
        {"version": 1, "words": words},
        columns_of,
        what="columns",
        worker=worker,
    )


def has_matching(out: Path) -> bool:
    """Say whether matching scores lie in a folder, of this run or of one before.

    Raises:
        DataError: they are those of another source.
    """
    if not (out / MATCHING).exists():
        return False
    columns, scores = made_from(out / COLUMNS), made_from(out / MATCHING)
    if any(columns[key] != scores[key] for key in ("source", "items")):
        raise DataError(f"{out / MATCHING} is of another source: remove it or write elsewhere")
    return True


def choose(
    out: Path,
    rules: Sequence[Rule],
    near: int | None = None,
    *,
    max_rejects: float = 0.1,
) -> Chosen:
    """Apply rules to the columns in a folder, and write kept.txt and rejects.jsonl there.

    It takes 22 bytes of memory a pair, and as much again while it sorts.

    Args:
        near: leave out a picture that differs in at most so many of 64 bits from that of an earlier pair
            which all other rules have left.
        max_rejects: share of the items that may be no pairs.

    Raises:
        DataError: too many items are no pairs, or rules that cannot be.
    """
    if near is not None and not 0 <= near <= MOST_BITS:
        raise DataError(f"near pictures differ in 0 to {MOST_BITS} bits, not {near}")
    if len(rules) > _MOST_RULES:
        raise DataError(f"{len(rules)} rules; there may be {_MOST_RULES}")
    names = [_OWN_ID, _READABLE, *(rule.name for rule in rules)]
    reasons = [
        "an earlier pair has this id, or it has several lines",
        "no picture that can be read",
    ]
    reasons += [f"not {rule.name}" for rule in rules]
    told = _measure(out, rules)
    failed, (pairs,) = told.failed, np.nonzero(told.is_pair)
    failed[pairs[second_of_one_id(told.ids[pairs])]] |= 1
    alone = [int((failed[pairs] >> bit & 1).sum()) for bit in range(len(names))]
    not_told = list(told.not_told)
    if near is not None:
        names.append(f"a picture over {near} bits from earlier")
        reasons.append(f"an earlier picture differs in at most {near} bits of its looks")
        (seen,) = np.nonzero(told.has_looks)
        alone.append(int(near_an_earlier(told.looks[seen], near).sum()))
        left = seen[failed[seen] == 0]
        failed[left[near_an_earlier(told.looks[left], near)]] |= 1 << len(names) - 1
        not_told.append(len(pairs) - len(seen))
    # The lowest bit is the first rule that a pair fails, and 32 stands for none.
    first = np.bitwise_count((failed & -failed) - np.uint32(1))
    in_order = np.bincount(first[pairs], minlength=33)
    num_left = len(pairs) - np.cumsum(in_order)
    counts = tuple(
        RuleCount(name, alone[bit], int(in_order[bit]), int(num_left[bit]), not_told[bit])
        for bit, name in enumerate(names)
    )
    chosen = Chosen(len(failed), len(failed) - len(pairs), counts)
    (out / KEPT).unlink(missing_ok=True)  # of other rules, should these be refused
    with open_whole(out / KEPT) as kept:
        _write(out, reasons, first, kept)
        check_share(chosen.rejects, chosen.items, max_rejects, out / REJECTS)
    return chosen


@dataclass(frozen=True)
class _Told:
    """What rules say of each item, of which only pairs count."""

    is_pair: NDArray[np.bool_]
    failed: NDArray[np.uint32]  # a bit for each rule
    ids: NDArray[np.uint64]  # hashes
    has_looks: NDArray[np.bool_]
    looks: NDArray[np.uint64]
    not_told: Sequence[int]


def _measure(out: Path, rules: Sequence[Rule]) -> _Told:
    is_pair, failed, ids = array("B"), array("I"), array("Q")
    has_looks, looks = array("B"), array("Q")
    not_told = [0] * (2 + len(rules))
    for row in _rows(out):
        is_pair.append("reject" not in row)
        has_looks.append("looks" in row)
        looks.append(int(row.get("looks", "0"), 16))
        ids.append(hash_of(row["id"] or ""))
        bits = 0
        if is_pair[-1]:
            bits = _has_lines(row["id"]) | row.get("broken", False) << 1
            not_told[1] += "broken" not in row
            for bit, rule in enumerate(rules, 2):
                holds = rule.holds(row)
                not_told[bit] += holds is None
                bits |= (holds is False) << bit
        failed.append(bits)
    return _Told(  # without copies
        np.asarray(is_pair).view(bool),
        np.asarray(failed),
        np.asarray(ids),
        np.asarray(has_looks).view(bool),
        np.asarray(looks),
        not_told,
    )


def _has_lines(id: str) -> bool:
    return "\n" in id or "\r" in id


def _rows(out: Path) -> Iterator[Row]:
    """Yield the columns of each item, with its matching score where there is one."""
    columns = read_lines_of(out / COLUMNS)
    if not has_matching(out):
        return columns
    scores = read_lines_of(out / MATCHING)
    return ({**row, **score} for row, score in zip(columns, scores, strict=True))


def _write(out: Path, reasons: Sequence[str], first: NDArray[np.uint8], kept: BinaryIO) -> None:
    """Write which pairs are kept, and why each other one is not."""
    with open_whole(out / REJECTS) as rejects:
        for row, bit in zip(read_lines_of(out / COLUMNS), first.tolist(), strict=True):
            if "reject" not in row and bit == _NONE:
                kept.write(f"{row['id']}\n".encode())
                continue
            reason = row["why"] if bit == _BROKEN else row.get("reject") or reasons[bit]
            rejects.write(LeftOut(row["place"], row["id"], reason).line().encode())
