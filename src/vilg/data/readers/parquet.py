"""Parquet files, as the Hugging Face hub keeps data sets: a row a pair, with the picture in a column.

The column is called as in JSON lines (`records.PICTURE`) and holds the file's bytes, its path, or both
(a struct of `bytes` and `path`). Rows are read a group at a time and without the bytes of pictures; those
are read when they are asked for, the whole group's at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Items, Pair, Reject
from vilg.data.readers.records import ID, PICTURE, merged, pair_of
from vilg.errors import how_to_install

_ROWS = 1024  # that are Python objects at once
_GROUPS = 2  # whose pictures stay in memory, in each process


@dataclass(frozen=True, slots=True)
class Cell:
    """How to read the picture of a row, which is counted within its group of rows."""

    path: Path
    column: str
    group: int
    row: int

    def __call__(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            DataError: the file is damaged, or has changed since its rows were read.
        """
        try:
            value = _column(self.path, self.column, self.group)[self.row].as_py()
        except _errors() as error:
            place = f"{self.path} group {self.group + 1} row {self.row + 1}"
            raise DataError(f"cannot read the picture of {place}: {_reason(error)}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(f"no picture in {self.path} group {self.group + 1} row {self.row + 1}")
        return content

    @property
    def proof(self) -> str:
        """As that of a `Part`, but for the size, which is the whole file's: bytes are compressed together."""
        return f"{self.path.name} {self.group} {self.row} {self.path.stat().st_size}"


@lru_cache(_GROUPS)
def _column(path: Path, column: str, group: int) -> Any:
    with _open(path) as file:
        return file.read_row_group(group, columns=[column]).column(0)


def read_parquet(path: Path, pictures: Path | None = None) -> Items:
    """Read the rows of a file.

    Args:
        pictures: the folder of pictures that rows name; by default the file's own.

    Raises:
        DataError: pyarrow is not installed.
    """
    return merged(_read_groups(path, pictures or path.parent))


def _read_groups(path: Path, root: Path) -> Items:
    errors, first = _errors(), 1
    try:
        with _open(path) as file:
            column, columns, stored = _columns(file.schema_arrow)
            for group in range(file.num_row_groups):
                size, number = file.metadata.row_group(group).num_rows, first
                try:
                    for row in _rows(file, group, columns):
                        place = f"{path.name} row {number}"
                        cell = Cell(path, stored, group, number - first) if stored else None
                        number += 1
                        yield _pair(row, place, root, column, cell)
                except errors as error:
                    reason = f"rows up to {first + size - 1} cannot be read: {_reason(error)}"
                    yield Reject(place=f"{path.name} row {number}", reason=reason)
                first += size
    except errors as error:
        yield Reject(place=path.name, reason=_reason(error))


def _rows(file: Any, group: int, columns: list[str]) -> Iterator[list[tuple[str, Any]]]:
    for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=columns):
        names = [name.strip().lower() for name in batch.schema.names]
        for row in range(batch.num_rows):
            yield [(name, values[row]) for name, values in zip(names, batch.columns, strict=True)]


def _columns(schema: Any) -> tuple[str, list[str], str | None]:
    """Return the column of pictures, which columns to read with the rows, and which holds bytes.

    Raises:
        DataError: no column of pictures, or two columns of one name.
    """
    types = import_module("pyarrow").types
    names = {name.strip().lower(): name for name in schema.names}
    if len(names) < len(schema.names):
        raise DataError(f"two columns of one name among {', '.join(schema.names)}")
    found = [names[name] for name in PICTURE if name in names]
    if not found:
        raise DataError(
            f"no column of pictures ({', '.join(PICTURE)}), but {', '.join(schema.names)}"
        )
    others = list(schema.names)
    for name in found:
        kind = schema.field(name).type
        if types.is_binary(kind) or types.is_large_binary(kind):
            others.remove(name)
            return name, others, name
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            place = others.index(name)
            others[place : place + 1] = (
                [f"{name}.path"] if kind.get_field_index("path") >= 0 else []
            )
            return name, others, f"{name}.bytes"
    return found[0], others, None


def _pair(
    row: list[tuple[str, Any]], place: str, root: Path, column: str, cell: Cell | None
) -> Pair | Reject:
    """Return the pair of a row; its bytes go before its path."""
    try:
        record = {name: value.as_py() for name, value in row}
        has_bytes = cell is not None and _has_bytes(cell)
    except _errors() as error:
        return Reject(place=place, reason=f"cannot read it: {_reason(error)}")
    name = column.strip().lower()
    if isinstance(record.get(name), dict):
        record[name] = record[name].get("path")
    if all(record.get(key) is None for key in (*ID, *PICTURE)):
        record["id"] = place
    return pair_of(record, place, root, cell if has_bytes else None, is_row=True)


def _has_bytes(cell: Cell) -> bool:
    """Say whether a row has a picture's bytes; reads them only where the file does not tell itself."""
    nulls, rows = _nulls(cell.path, cell.column, cell.group)
    if nulls is None or 0 < nulls < rows:
        value = _column(cell.path, cell.column, cell.group)[cell.row].as_py()
        return (value.get("bytes") if isinstance(value, dict) else value) is not None
    return nulls == 0


@lru_cache(_GROUPS)
def _nulls(path: Path, column: str, group: int) -> tuple[int | None, int]:
    """Return how many rows of a group have no bytes, where the file says so, of how many."""
    with _open(path) as file:
        rows = file.metadata.row_group(group)
        for number in range(rows.num_columns):
            chunk = rows.column(number)
            if (
                chunk.path_in_schema == column
                and chunk.is_stats_set
                and chunk.statistics.has_null_count
            ):
                return chunk.statistics.null_count, rows.num_rows
        return None, rows.num_rows


def _open(path: Path) -> Any:
    return import_module("pyarrow.parquet").ParquetFile(path, page_checksum_verification=True)


def _errors() -> tuple[type[Exception], ...]:
    """Return what reading a damaged file raises.

    Raises:
        DataError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise DataError(
            f"pyarrow not found: reading parquet needs the extra: {how_to_install('data')}"
        )
    own: type[Exception] = import_module("pyarrow").ArrowException
    return (own, OSError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
