"""Captions in a second language, by a machine that translates: a file beside a source.

The paper's 15 million pairs of CC and CC12M had their captions translated (section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from vilg.data.lines import Row, read_lines_of, write_lines
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import Worker
from vilg.data.readers.translated import TAG
from vilg.data.sources import Source


class Translator(Protocol):
    """Translates from one language into another.

    Attributes:
        name, fingerprint: who it is, and its weights with what else decides its words.
    """

    name: str
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Sequence[str | DataError]:
        """Return each text's translation, or why there is none."""
        ...


@dataclass(frozen=True)
class Translated:
    """What a file of translations holds.

    Attributes:
        pairs, texts: with a translation, and how many.
        had: pairs that had a caption in the language already.
        failed: texts without a translation.
    """

    pairs: int
    texts: int
    had: int
    failed: int


def write_translations(
    source: Source,
    path: Path,
    translator: Translator,
    lang: str,
    worker: Worker | None = None,
) -> bool:
    """Translate captions into a language; return whether all are, or other workers are still at it.

    A pair that has a caption in the language keeps it, and gets none besides.
    """
    return write_lines(
        source,
        path,
        {"to": lang, "by": translator.name, "weights": translator.fingerprint},
        partial(_translate, translator, lang),
        what="translations",
        worker=worker,
    )


def _translate(
    translator: Translator, lang: str, items: Sequence[Pair | Reject]
) -> list[Row | None]:
    """Return a row for each pair, and none for what is no pair."""
    rows: list[Row | None] = []
    owners, texts = list[Row](), list[str]()
    for item in items:
        if isinstance(item, Reject):
            rows.append(None)
            continue
        row: Row = {"id": item.id, lang: []}
        rows.append(row)
        if lang in item.captions:
            row["had"] = len(item.captions[lang])
            continue
        for captions in item.captions.values():
            owners += [row] * len(captions)
            texts += captions
    for row, text, found in zip(owners, texts, translator(texts), strict=True):
        if isinstance(found, DataError):
            row.setdefault("failed", []).append({"text": text, "reason": str(found)})
            continue
        row[TAG] = translator.name
        if found not in row[lang]:
            row[lang].append(found)
    return rows


def count_translations(path: Path, lang: str) -> Translated:
    """Count what a file holds."""
    pairs = texts = had = failed = 0
    for row in read_lines_of(path):
        pairs += bool(row[lang])
        texts += len(row[lang])
        had += "had" in row
        failed += len(row.get("failed", ()))
    return Translated(pairs, texts, had, failed)
