"""A table about a source: one JSON object a line for each item, made in parts by any number of workers."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import Worker, num_parts, own_parts
from vilg.data.sources import Source
from vilg.files import write_whole

Row = dict[str, Any]
About = Callable[[Sequence[Pair | Reject]], Sequence[Row | None]]


def write_lines(
    source: Source,
    num_items: int,
    path: Path,
    settings: Mapping[str, Any],
    about: About,
    *,
    what: str,
    worker: Worker | None = None,
    finish: Callable[[], Callable[[Row], Row]] | None = None,
) -> bool:
    """Write what there is to say about each item; return whether the table is whole.

    A table that is whole stays as it is, and so do the parts of one that is not, so that the same command
    goes on after a kill. The worker who finds all parts there joins them.

    Args:
        num_items: of the source.
        settings: decide the table together with the source; kept beside it in NAME.made_from.
        about: gives a row for each item of a part; for None there is no line.
        finish: is called by the one who joins, and gives what changes each row then.

    Raises:
        DataError: the table, or parts of it, were made from something else.
    """
    worker = worker or Worker()
    parts = path.with_name(f"{path.stem}.parts")
    path.parent.mkdir(parents=True, exist_ok=True)
    _pin(path, {"source": source.told, "items": num_items, **settings})
    if path.exists():
        shutil.rmtree(parts, ignore_errors=True)  # of a kill between the last two steps
        return True
    parts.mkdir(exist_ok=True)

    def part(number: int) -> Path:
        return parts / f"{number:08d}.jsonl"

    for number, items in own_parts(source, worker, lambda n: part(n).exists(), num_items, what):
        write_whole(part(number), "".join(_line(row) for row in about(items) if row is not None))
    paths = [part(number) for number in range(num_parts(num_items))]
    if path.exists():  # another worker has joined them meanwhile
        return True
    if not all(path.exists() for path in paths):
        return False
    change = finish() if finish else None
    joined = parts / f"joined-{os.getpid()}"
    try:
        with joined.open("w", encoding="utf-8", newline="\n") as file:
            for made in paths:
                for row in read_lines_of(made):
                    file.write(_line(change(row) if change else row))
        joined.replace(path)
    except FileNotFoundError:
        if not path.exists():  # as it does where another worker was quicker and has cleared up
            raise
    shutil.rmtree(parts, ignore_errors=True)
    return True


def read_lines_of(path: Path) -> Iterator[Row]:
    """Yield the rows of a table that `write_lines` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield json.loads(line)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def made_from(path: Path) -> Row:
    """Return what a table says that it is made from."""
    return json.loads(_note(path).read_text(encoding="utf-8"))


def _note(path: Path) -> Path:
    return path.with_suffix(".made_from")


def _pin(path: Path, now: Mapping[str, Any]) -> None:
    """Note what a table is made from; refuse to go on with one of anything else."""
    if _note(path).exists():
        before = made_from(path)
        if before != now:
            other = next(key for key in now if before.get(key) != now[key])
            raise DataError(
                f"{path} is made from another {other} ({before.get(other)}, now {now[other]}): remove "
                f"it and {_note(path).name}, or write elsewhere"
            )
    elif path.exists():
        raise DataError(f"{path} is there and does not say what it is made from: write elsewhere")
    else:
        write_whole(_note(path), json.dumps(now, ensure_ascii=False) + "\n")
