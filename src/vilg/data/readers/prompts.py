"""Lists of prompts, which have no pictures: ViLG-300, PartiPrompts, GenEval, or one prompt a line.

A prompt is the caption of a picture that is still to be drawn, so it stands among the captions of a pair
without a picture. Its id is the name of its file and its number there.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from vilg.data.pairs import Items, Reject, has_half_characters, make_pair
from vilg.data.readers.records import Record
from vilg.data.readers.tables import objects_of, read_lines, rows_of

# ViLG-300 names its columns half in Chinese.
PROMPT = {"prompt": None, "prompt_en": "en", "prompt_zh": "zh", "文本": "zh"}
_TAGS = {"类别": "category", "来源": "source"}


def read_prompts(path: Path, pictures: Path | None = None) -> Items:
    """Read a table (.csv, .tsv), JSON lines (.jsonl), or lines of any other file.

    Args:
        pictures: no use here, where there are none.
    """
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        records = rows_of(path)
    else:
        records = objects_of(path) if suffix in (".jsonl", ".ndjson") else _lines(path)
    for number, item in enumerate(records, 1):
        if isinstance(item, Reject):
            yield item
            continue
        place, record = item
        prompts = [(lang, record[name]) for name, lang in PROMPT.items() if record.get(name)]
        if not all(isinstance(text, str) for _, text in prompts):
            yield Reject(place=place, reason="a prompt that is no text")
        else:
            yield make_pair(f"{path.stem}-{number}", place, None, prompts, tags=_tags(record))


def _lines(path: Path) -> Iterator[tuple[str, Record] | Reject]:
    for number, line in read_lines(path):
        place, text = f"{path.name} line {number}", line.decode("utf-8", "surrogateescape")
        if has_half_characters(text):
            yield Reject(place=place, reason="bytes that are no UTF-8")
        elif text.strip():
            yield place, {"prompt": text}


def _tags(record: Record) -> dict[str, str]:
    """Return what else is said of a prompt; GenEval's lists of what must be seen stay JSON."""
    return {
        _TAGS.get(name, name): value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
        for name, value in record.items()
        if name not in PROMPT
    }
