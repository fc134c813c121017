"""Captions that `vilg data translate` wrote beside a source, joined to its pairs."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.readers.records import parse_object
from vilg.data.readers.tables import read_lines
from vilg.text import LANGUAGES

TAG = "translated"  # of a pair: into which language, by whom


def with_translations(items: Iterable[Pair | Reject], path: Path) -> Iterator[Pair | Reject]:
    """Add the captions of a file to the pairs of its source; both are read once, and side by side.

    Raises:
        DataError: no such file, a line that is none of translations, or a pair that the source lacks or
            has at another place than when it was translated.
    """
    lines = _lines(path)
    place, row = next(lines, ("", None))
    for item in items:
        if isinstance(item, Pair) and row is not None and item.id == row["id"]:
            item = _joined(item, row)
            place, row = next(lines, ("", None))
        yield item
    if row is not None:
        raise DataError(
            f"{place}: the source has no pair {row['id']!r} where it had it as it was translated: "
            "translate it again"
        )


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for number, line in read_lines(path):
            place = f"{path.name} line {number}"
            row = dict(parse_object(line))
            texts = [text for lang in LANGUAGES for text in row.get(lang, [])]
            if not isinstance(row.get("id"), str) or not all(isinstance(t, str) for t in texts):
                raise DataError(f"{place} is no line of vilg data translate")
            yield place, row
    except OSError as error:
        raise DataError(f"cannot read the translations in {path}: {error.strerror}") from error


def _joined(pair: Pair, row: dict[str, Any]) -> Pair:
    added = {
        lang: tuple(row[lang]) for lang in LANGUAGES if row.get(lang) and lang not in pair.captions
    }
    if not added:
        return pair
    tags = {**pair.tags, TAG: f"{'+'.join(added)} by {row[TAG]}"}
    return replace(pair, captions=dict(sorted({**pair.captions, **added}.items())), tags=tags)


def fingerprint_of(path: Path) -> str:
    """Return what tells a file of translations from others."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"cannot read the translations in {path}: {error.strerror}") from error
