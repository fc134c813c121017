"""A table about a source: one JSON object a line for each item, made in parts by any number of workers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import Work, Worker
from vilg.data.sources import Source
from vilg.files import open_whole, write_whole

Row = dict[str, Any]
About = Callable[[Sequence[Pair | Reject]], Sequence[Row | None]]


def write_lines(
    source: Source,
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
        settings: decide the table together with the source; kept beside it in NAME.made_from.
        about: gives a row for each item of a part; for None there is no line.
        finish: is called by the one who joins, and gives what changes each row then.

    Raises:
        DataError: the table, or parts of it, were made from something else.
    """
    made_from = {"source": source.identity.sha256, "items": source.identity.items, **settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    _pin(path, made_from)
    work = Work(
        whole=path,
        parts=path.with_name(f"{path.stem}.parts"),
        suffix=".jsonl",
        made_from=made_from,
        others="another source",
        what=what,
    )

    def make(_: int, items: Sequence[Pair | Reject]) -> str:
        return "".join(_line(row) for row in about(items) if row is not None)

    def join(made: Sequence[Path]) -> None:
        change = finish() if finish else None
        with open_whole(path, work.parts) as file:
            for part in made:
                for row in read_lines_of(part):
                    file.write(_line(change(row) if change else row).encode())

    return work.run(source, worker or Worker(), make, join)


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
            values = "" if other == "source" else f" ({before.get(other)}, now {now[other]})"
            raise DataError(
                f"{path} is made from another {other}{values}: remove it and {_note(path).name}, or write "
                "elsewhere"
            )
    elif path.exists():
        raise DataError(f"{path} is there and does not say what it is made from: write elsewhere")
    else:
        write_whole(_note(path), json.dumps(now, ensure_ascii=False) + "\n")
