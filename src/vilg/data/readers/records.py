"""Records of named fields, as JSON objects and rows of tables have them, become pairs.

Other people's names of the same thing are in `PICTURE`, `CAPTION` and so on; every field that is none of
these and has one value is a tag.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vilg.data.pairs import (
    DataError,
    Items,
    Pair,
    Question,
    Read,
    Reject,
    find_picture,
    has_half_characters,
    make_pair,
)
from vilg.text import LANGUAGES, guess_language

PICTURE = ("image", "file_name", "filename", "image_path", "picture", "path", "file")
CAPTION = ("caption", "captions", "text", "texts")
LANGUAGE = ("lang", "language")
ID = ("id", "key")
QUESTIONS, QUESTION, ANSWERS = "questions", "question", ("answer", "answers")
_OF_LANGUAGE = {f"{name}_{lang}": lang for lang in LANGUAGES for name in CAPTION} | {
    lang: lang for lang in LANGUAGES
}
_KNOWN = {*PICTURE, *CAPTION, *LANGUAGE, *ID, *_OF_LANGUAGE, *ANSWERS, QUESTIONS, QUESTION}

Record = Mapping[str, Any]


def first_of(record: Record, names: Iterable[str]) -> Any:
    """Return the first of these fields that the record has; None where it has none."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def parse_object(text: str | bytes) -> Record:
    """Read a JSON object that anybody may have written.

    Raises:
        DataError: no JSON, no object, or a key twice, of which readers would keep one or the other.
    """
    try:
        record = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # bad UTF-8, or brackets in brackets
        raise DataError(f"no JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"no JSON object but {type(record).__name__}")
    return record


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields


def captions_of(record: Record) -> list[tuple[str | None, str]]:
    """Return the captions of a record: a text, a list of texts, or either by language.

    Raises:
        DataError: a caption or its language that is no text.
    """
    told = first_of(record, LANGUAGE)
    if not isinstance(told, str | None):
        raise DataError(f"a language that is {type(told).__name__}, not a text")
    found = list(_texts(first_of(record, CAPTION), told))
    for name, lang in _OF_LANGUAGE.items():
        if (value := record.get(name)) is not None:
            found += _texts(value, lang)
    return found


def _texts(value: Any, lang: str | None) -> Iterator[tuple[str | None, str]]:
    if isinstance(value, dict):
        for key, texts in value.items():
            yield from _texts(texts, key)
    elif isinstance(value, str):
        yield lang, value
    elif isinstance(value, list) and not any(isinstance(text, dict | list) for text in value):
        for text in value:
            yield from _texts(text, lang)
    elif value is not None:
        raise DataError(f"a caption that is {type(value).__name__}, not a text")


def questions_of(record: Record) -> tuple[Question, ...]:
    """Return the questions of a record: one in its own fields, or a list of such records.

    Raises:
        DataError: a question or answer that is no text.
    """
    asked = record.get(QUESTIONS)
    if asked is None:
        asked = [record] if record.get(QUESTION) is not None else []
    if not isinstance(asked, list) or not all(isinstance(item, dict) for item in asked):
        raise DataError("questions are no list of objects")
    return tuple(_question(item) for item in asked)


def _question(item: Record) -> Question:
    text, answers = item.get(QUESTION), first_of(item, ANSWERS)
    answers = [] if answers is None else answers if isinstance(answers, list) else [answers]
    # VQAv2 writes an answer as an object.
    answers = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    if not isinstance(text, str) or not text.strip():
        raise DataError("a question without a text")
    if not all(isinstance(answer, str) for answer in answers):
        raise DataError("an answer that is no text")
    if any(map(has_half_characters, (text, *answers))):
        raise DataError("a question that is no Unicode")
    lang = first_of(item, LANGUAGE)
    return Question(
        lang=lang if lang in LANGUAGES else guess_language(text),
        text=text.strip(),
        answers=tuple(answer.strip() for answer in answers if answer.strip()),
    )


def tags_of(record: Record) -> dict[str, str]:
    """Return what else a record says, where it is one text, number or truth value."""
    return {
        name: str(value)
        for name, value in record.items()
        if name not in _KNOWN and isinstance(value, str | int | float)
    }


def pair_of(
    record: Record,
    place: str,
    root: Path,
    picture: Read | None = None,
    *,
    is_row: bool = False,
) -> Pair | Reject:
    """Return the pair of a record.

    Args:
        root: the folder that its picture lies in or below.
        picture: where the record itself does not say which.
        is_row: it goes to `merged`, and may lack a caption if another row has one.
    """
    id, name = first_of(record, ID), first_of(record, PICTURE)
    try:
        if picture is None and not isinstance(name, str):
            raise DataError(f"no picture: none of {', '.join(PICTURE)} is a text")
        if not isinstance(id, str | int | None) or (id is None and name is None):
            raise DataError("its id is neither a text nor a number")
        id = str(id) if id is not None else name_of(str(name))
        picture = picture or find_picture(root, str(name))
        return make_pair(
            id,
            place,
            picture,
            captions_of(record),
            questions=questions_of(record),
            tags=tags_of(record),
            is_row=is_row,
        )
    except DataError as error:
        id = name_of(name) if id is None and isinstance(name, str) else id
        id = str(id) if isinstance(id, str | int) else None
        return Reject(place=place, id=id, reason=str(error))


def name_of(path: str) -> str:
    """Return the id of a picture that has no other: its path without the suffix."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and stem and "/" not in suffix else path


def merged(items: Items) -> Iterator[Pair | Reject]:
    """Join neighbours of one id and one picture into one item: a table has a row a caption.

    Those without any caption are one reject, and one without beside others is a fault of their pair. A reject among them, which may be theirs, comes before their pair.
    """
    rows = list[Pair]()
    for item in items:
        id = item.id if isinstance(item, Reject) else (item.id, item.picture)
        same = (None, rows[0].id, (rows[0].id, rows[0].picture)) if rows else ()
        if rows and id not in same:
            yield _joined(rows)
            rows = []
        if isinstance(item, Reject):
            yield item
        else:
            rows.append(item)
    if rows:
        yield _joined(rows)


def _joined(rows: list[Pair]) -> Pair | Reject:
    if len(rows) == 1 and _says_something(rows[0]):
        return rows[0]
    captions = [
        (lang, text) for row in rows for lang, texts in row.captions.items() for text in texts
    ]
    joined = make_pair(
        rows[0].id,
        rows[0].place,
        rows[0].picture,
        captions,
        questions=tuple(question for row in rows for question in row.questions),
        tags={name: value for row in reversed(rows) for name, value in row.tags.items()},
        faults=[fault for row in rows for fault in row.faults or _lack(row, rows)],
    )
    if isinstance(joined, Reject):
        return joined
    return replace(joined, untagged=sum(row.untagged for row in rows))


def _says_something(row: Pair) -> bool:
    return bool(row.captions or row.questions)


def _lack(row: Pair, rows: list[Pair]) -> tuple[str, ...]:
    """Return the fault of a row that has no text at all; where no row has one, there is no pair."""
    is_fault = not _says_something(row) and any(map(_says_something, rows))
    return ("an empty caption",) if is_fault else ()
