"""Tables of pairs: JSON lines, and rows with a header, separated by commas or tabs."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from vilg.data.pairs import DataError, Items, Reject, has_half_characters
from vilg.data.readers.records import Record, merged, pair_of, parse_object

LONGEST_LINE = 2**24  # bytes; a line beyond is no line of text

Records = Iterator[tuple[str, Record] | Reject]


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, without a mark at its start or ends of lines.

    A line beyond 16 MB comes out cut there, and its rest as no line of its own.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            yield number, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").rstrip(b"\r\n")
            while not line.endswith(b"\n") and len(line) == LONGEST_LINE:
                line = file.readline(LONGEST_LINE)


def read_jsonl(path: Path, pictures: Path | None = None) -> Items:
    """Read a JSON object a line."""
    return merged(_pairs(objects_of(path), pictures or path.parent))


def read_table(path: Path, pictures: Path | None = None) -> Items:
    """Read rows whose first names the columns; tabs part them in a .tsv, commas in any other file."""
    return merged(_pairs(rows_of(path), pictures or path.parent))


def _pairs(records: Records, root: Path) -> Items:
    for record in records:
        if isinstance(record, Reject):
            yield record
        else:
            place, fields = record
            yield pair_of(fields, place, root, is_row=True)


def objects_of(path: Path) -> Records:
    """Yield the JSON objects of a file, one a line, with their places."""
    for number, line in read_lines(path):
        place = f"{path.name} line {number}"
        if not line.strip():
            continue
        if len(line) >= LONGEST_LINE - 1:
            yield Reject(place=place, reason="a line of over 16 MB")
            continue
        try:
            yield place, parse_object(line)
        except DataError as error:
            yield Reject(place=place, reason=str(error))


def rows_of(path: Path) -> Records:
    """Yield the rows of a table by the names of its columns, in lower case, with their places.

    A line that is no row (a quote that is never closed, say) is left out by itself, and reading goes on
    with the next one.
    """
    rows = _rows(path)
    number, header = next(rows, (1, []))
    if isinstance(header, csv.Error):
        yield Reject(place=f"{path.name} line {number}", reason=f"no names of columns: {header}")
        return
    names = [name.strip().lower() for name in header]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        yield Reject(place=f"{path.name} line {number}", reason=f"two columns {twice[0]!r}")
        return
    for number, row in rows:
        place = f"{path.name} line {number}"
        if isinstance(row, csv.Error):
            yield Reject(place=place, reason=f"no row of a table: {row}")
        elif not any(cell.strip() for cell in row):
            continue
        elif len(row) != len(names):
            reason = f"{len(row)} cells under {len(names)} names of columns"
            yield Reject(place=place, reason=reason)
        elif any(map(has_half_characters, row)):
            yield Reject(place=place, reason="bytes that are no UTF-8")
        else:
            cells = zip(names, row, strict=True)
            yield place, {name: cell for name, cell in cells if name and cell.strip()}


def _rows(path: Path) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield rows with the numbers of their first lines; for a line that begins none, why."""
    file, taken, again = read_lines(path), list[tuple[int, str]](), deque[tuple[int, str]]()

    def lines() -> Iterator[str]:
        while True:
            if again:
                line = again.popleft()
            else:
                number, content = next(file, (0, b""))
                if not number:
                    return
                # Bytes that are no UTF-8 become half characters, so that only their row is refused.
                line = number, content.decode("utf-8", "surrogateescape") + "\n"
            taken.append(line)
            yield line[1]

    while True:
        if path.suffix.lower() == ".tsv":
            rows = csv.reader(lines(), delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            rows = csv.reader(lines(), strict=True)
        try:
            for row in rows:
                yield taken[0][0], row
                taken.clear()
            return
        except csv.Error as error:
            yield taken[0][0], error
            again.extendleft(reversed(taken[1:]))
            taken.clear()
