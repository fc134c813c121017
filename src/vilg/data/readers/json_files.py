"""JSON files with one value each, which are read whole: their items become notes."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Items, Part, Reject
from vilg.data.readers.annotations import Note, Notes, gather
from vilg.data.readers.records import Record


class Doubled(dict[str, Any]):
    """A JSON object in which a key stands twice; `fields` has both."""

    def __init__(self, fields: list[tuple[str, Any]]) -> None:
        super().__init__(fields)
        self.fields = fields


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(fields)
    return plain if len(plain) == len(fields) else Doubled(fields)


def read_json(path: Path, notes_of: Callable[[Any, Path], Notes], root: Path) -> Items:
    """Yield the pairs of a JSON file, which is read whole.

    Args:
        notes_of: yields the notes of the file's content; may raise a DataError for content of another form.
        root: the folder of the pictures.
    """
    try:
        yield from gather(notes_of(load_json(path), path), root)
    except DataError as error:
        yield Reject(place=path.name, reason=str(error))


def load_json(path: Path) -> Any:
    """Read a JSON file that anybody may have written.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(Part(path)(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"no JSON: {error}") from error


def each(
    items: Iterable[Any], place: str, note_of: Callable[[Record, str], Note]
) -> Iterator[Note | Reject]:
    """Yield the notes of items, which are numbered from 1; an item that `note_of` refuses is a reject."""
    for number, item in enumerate(items, 1):
        where = f"{place} item {number}"
        try:
            if not isinstance(item, dict):
                raise DataError(f"no JSON object but {type(item).__name__}")
            if isinstance(item, Doubled):
                raise DataError("a key stands twice in one object")
            yield note_of(item, where)
        except DataError as error:
            yield Reject(place=where, reason=str(error))


def list_of(content: Any, name: str) -> list[Any]:
    """Return a list that an object has.

    Raises:
        DataError: it has none.
    """
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise DataError(f"it has no list {name!r}")
    if isinstance(content, Doubled) and sum(key == name for key, _ in content.fields) > 1:
        raise DataError(f"it has two lists {name!r}")
    return found


def text_of(record: Record, name: str) -> str:
    """Return a field that is a text or a whole number, as ids are.

    Raises:
        DataError: it is not there or neither.
    """
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{name} is no text or number")
    return str(value)
