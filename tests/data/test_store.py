"""The store: what was written is read back, and what is damaged is one line."""

import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vilg.data.pairs import DataError
from vilg.data.store import Kind, Rows, Store, StoreInfo, Writer

GRID = (2, 3)
NAMES = ("image_ids.bin", "rows.bin", "texts.bin", "tokens.bin", "ids.bin")
Row = tuple[str, list[int], list[tuple[int, Kind, list[int]]]]

# Of every kind of row: several texts, none at the head, between and at the end, ids of one byte and of many.
ROWS: list[Row] = [
    ("a", [0, 1, 2, 3, 4, 65535], []),
    ("b/c", [9] * 6, [(0, Kind.CAPTION, [262, 65535]), (1, Kind.CAPTION, [7])]),
    ("", [8] * 6, []),
    ("猫 é", [7] * 6, [(1, Kind.PROMPT, [300, 301, 302]), (1, Kind.QUESTION, [5]), (1, Kind.ANSWER, [6])]),
    ("\U0001f34f", [6] * 6, [(0, Kind.CAPTION, [])]),
    ("last", [5] * 6, []),
]  # fmt: skip


def write(folder: Path, rows: list[Row], each: int = 2) -> Path:
    """Write rows, so many at a time."""
    writer = Writer(folder)
    for first in range(0, len(rows), each):
        ids, image_ids, texts = zip(*rows[first : first + each], strict=True)
        writer.append(Rows(ids, np.array(image_ids, np.uint16), texts))
    writer.close(
        partial(
            StoreInfo, grid=GRID, image_tokenizer="i", text_tokenizer="t", max_text=8, rejects=0
        )
    )
    return folder


def read(store: Store, rows: list[int]) -> list[Row]:
    """Read rows as they were given."""
    rows_B = np.array(rows, np.int64)
    texts = store.texts_of(rows_B)
    tokens = [found.tolist() for found in store.tokens_of(texts.text_P)]
    found: list[Row] = [
        (id, image_ids.tolist(), [])
        for id, image_ids in zip(store.ids(rows_B), store.image_ids(rows_B), strict=True)
    ]
    for owner, lang, kind, text in zip(
        texts.owner_P, texts.lang_P, texts.kind_P, tokens, strict=True
    ):
        found[owner][2].append((int(lang), Kind(kind), text))
    return found


@pytest.mark.parametrize("each", [1, 2, 5, 6])
def test_rows_are_read_back(tmp_path: Path, each: int) -> None:
    store = Store(write(tmp_path, ROWS, each))
    assert len(store) == len(ROWS)
    assert read(store, [0, 1, 2, 3, 4, 5]) == ROWS
    assert read(store, [5, 3, 3, 0, 3]) == [ROWS[i] for i in (5, 3, 3, 0, 3)]
    assert read(store, []) == []
    store.check()
    info = store.info
    assert (info.rows, info.texts, info.tokens) == (6, 6, 8)
    assert info.id_bytes == sum(len(id.encode()) for id, _, _ in ROWS)


def test_random_rows_are_read_back(tmp_path: Path) -> None:
    """Also many at once, and one by one."""
    rng = random.Random(0)
    rows: list[Row] = [
        (
            "é" * rng.randrange(4) + str(i),
            [rng.randrange(2**16) for _ in range(6)],
            [
                (
                    rng.randrange(2),
                    rng.choice(list(Kind)),
                    [rng.randrange(2**16) for _ in range(rng.randrange(5))],
                )
                for _ in range(rng.randrange(4))
            ],
        )
        for i in range(700)
    ]
    store = Store(write(tmp_path, rows, 300))
    order = [rng.randrange(len(rows)) for _ in range(1500)]
    assert read(store, order) == [rows[i] for i in order]
    for i in order[:600]:
        assert read(store, [i]) == [rows[i]]


@pytest.mark.parametrize("rows", [[], [ROWS[0]], [ROWS[4]]], ids=["no rows", "no texts", "empty"])
def test_files_may_be_empty(tmp_path: Path, rows: list[Row]) -> None:
    store = Store(write(tmp_path, rows))
    assert read(store, [*range(len(rows))]) == rows
    store.check()


@pytest.mark.parametrize("each", [1, 3])
def test_the_bytes_tell_nothing_of_how_they_came(tmp_path: Path, each: int) -> None:
    one, other = write(tmp_path / "one", ROWS), tmp_path / "other"
    other.mkdir()
    for name in NAMES:  # as a killed writer of something longer leaves them
        (other / name).write_bytes(os.urandom(1000))
    write(other, ROWS, each)
    assert {path.name for path in other.iterdir()} == {*NAMES, "store.json"}
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_two_writers_of_one_store_do_not_harm_each_other(tmp_path: Path) -> None:
    slow = Writer(tmp_path)
    slow.append(Rows(["a"], np.array([ROWS[0][1]], np.uint16), [[]]))
    write(tmp_path, ROWS)
    with slow:  # it gives up, after the other has ended
        pass
    assert read(Store(tmp_path), [0, 1, 2, 3, 4, 5]) == ROWS


def refused(action: Callable[[], object]) -> str:
    """Return the line that an action ends with."""
    with pytest.raises(DataError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line and ("make the store anew" in line or "make one with" in line)
    return line


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    assert "is no store" in refused(lambda: Store(tmp_path))
    assert "is no store" in refused(lambda: Store(tmp_path / "missing"))
    (tmp_path / "store.json").mkdir()
    assert "is no store" in refused(lambda: Store(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_size_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, ROWS) / name
    content = path.read_bytes()
    for other in (content + b"\0", content[:-1], b""):
        path.write_bytes(other)
        assert f"{name} has {len(other)} bytes, not {len(content)}" in refused(
            lambda: Store(tmp_path)
        )
    path.unlink()
    assert f"{name} is not there" in refused(lambda: Store(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_check_finds_any_flipped_bit(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, ROWS) / name
    content = path.read_bytes()
    store = Store(tmp_path)
    for place in range(len(content)):
        path.write_bytes(content)
        store.check()
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert f"{name} is damaged" in refused(store.check)


@pytest.mark.parametrize("name", NAMES[1:])
def test_reading_a_flipped_byte_is_no_traceback(tmp_path: Path, name: str) -> None:
    """Whoever has not checked reads something else, or a line that says so; and not all of the memory."""
    path = write(tmp_path, ROWS) / name
    content = path.read_bytes()
    num_refused = 0
    for place in range(len(content)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= mask
            path.write_bytes(damaged)
            try:
                read(Store(tmp_path), [0, 1, 2, 3, 4, 5])
            except DataError as error:
                assert "is damaged: remove the folder and make the store anew" in str(error)
                num_refused += 1
    assert num_refused > 0 or name == "tokens.bin"


EDITS: list[tuple[str, object]] = [
    ("rows", -1),
    ("rows", 2**62),
    ("rows", 1.5),
    ("rows", None),
    ("texts", -1),
    ("tokens", True),
    ("id_bytes", "many"),
    ("rejects", -1),
    ("grid", []),
    ("grid", [6]),
    ("grid", [1, 2, 3]),
    ("grid", [-2, -3]),
    ("grid", [0, 6]),
    ("grid", [2**40, 2**40]),
    ("max_text", 0),
    ("version", 2),
    ("version", None),
    ("languages", ["en", "zh"]),
    ("languages", []),
    ("sha256", []),
    ("sha256", [[]] * 5),
    ("sha256", [["ids.bin"]] * 5),
    ("sha256", [["../../etc/passwd", "0"]]),
    ("sha256", {}),
    ("more", 1),
]


@pytest.mark.parametrize(("key", "value"), EDITS, ids=str)
def test_a_manifest_that_cannot_be_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = write(tmp_path, ROWS) / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    line = refused(lambda: Store(tmp_path))
    assert "store.json" in line or "bytes, not" in line


@pytest.mark.parametrize("key", ["rows", "texts", "grid", "sha256", "max_text", "version"])
def test_a_manifest_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, ROWS) / "store.json"
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    assert "store.json" in refused(lambda: Store(tmp_path))


def test_a_mutated_manifest_is_refused_or_says_something_else(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS) / "store.json"
    content, rng = path.read_bytes(), random.Random(1)
    for _ in range(300):
        place, length = rng.randrange(len(content)), rng.randrange(1, 30)
        middle = rng.choice(
            [b"", content[place : place + length] * 2, rng.randbytes(length), b"[" * 2000]
        )
        path.write_bytes(content[:place] + middle + content[place + length :])
        try:
            Store(tmp_path).check()
        except DataError as error:
            assert "\n" not in str(error)
    path.write_bytes(b"")
    assert "damaged" in refused(lambda: Store(tmp_path))
    path.write_bytes(b"[" * 10**6)
    assert "damaged" in refused(lambda: Store(tmp_path))


def test_a_store_stays_readable_from_another_folder_and_lets_go_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "store", ROWS)
    monkeypatch.chdir(tmp_path)
    before = open_files()
    store = Store(Path("store"))
    monkeypatch.chdir("/")
    rows_B: NDArray[np.int64] = np.arange(6).repeat(200)
    for _ in range(3):
        assert (store.image_ids(rows_B)[::200] == [row[1] for row in ROWS]).all()
    del store
    assert open_files() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_while_it_is_read_is_one_line(tmp_path: Path, name: str) -> None:
    store = Store(write(tmp_path, ROWS))
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size // 2)
    assert f"{name} has become shorter" in refused(lambda: read(store, [0, 1, 2, 3, 4, 5]))
    with pytest.raises(IndexError):
        store.image_ids(np.array([-1]))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
