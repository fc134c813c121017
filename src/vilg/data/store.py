"""The store: tokens of pictures and texts in rows that are read in place, written once, read from anywhere.

    store.json      how many rows, whose tokens, and the hash of every file; written last
    image_ids.bin   uint16 [rows, cells]
    rows.bin        ROW [rows + 1]: where a row's texts and its id begin; the last one, where all end
    texts.bin       TEXT [texts + 1]: where a text's tokens begin, its language and kind
    tokens.bin      uint16 [tokens]
    ids.bin         UTF-8 bytes

Opening costs the same for 1,000 and for 145 million rows, and training holds none of it in memory:
ranges are told by where the next one begins, so that nothing has to be added up. Nothing is mapped: pages
that a map touches count as memory of the process, and at random places a fault takes five times a read.

Shape letters: B rows asked for, N cells, P texts of all of them.
"""

import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from vilg.config import from_dict, to_json
from vilg.data.order import batch_ids
from vilg.data.pairs import DataError
from vilg.errors import SettingError
from vilg.files import write_whole
from vilg.text import LANGUAGES

ROW = np.dtype([("text", "<i8"), ("id", "<i8")])
TEXT = np.dtype([("token", "<i8"), ("lang", "u1"), ("kind", "u1")])
_VERSION = 1
NAMES = ("image_ids.bin", "rows.bin", "texts.bin", "tokens.bin", "ids.bin")


class Kind(IntEnum):
    """What a text is to its picture; an answer follows its question."""

    CAPTION = 0
    PROMPT = 1
    QUESTION = 2
    ANSWER = 3


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What store.json says.

    Attributes:
        grid: cells down and across.
        image_tokenizer, text_tokenizer: fingerprints of what made the tokens.
        max_text: tokens that a text has at most, its language token included.
        rejects: items of the source that are no rows; rejects.jsonl has their places and reasons.
        sha256: of each file, by its name.
        pairs: of what the source was (`identity.py`).
    """

    rows: int
    texts: int
    tokens: int
    id_bytes: int
    grid: tuple[int, ...]
    image_tokenizer: str
    text_tokenizer: str
    max_text: int
    rejects: int
    sha256: tuple[tuple[str, ...], ...]
    languages: tuple[str, ...] = LANGUAGES
    version: int = _VERSION
    pairs: str = ""


def files_of(info: StoreInfo) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return each file's type and shape."""
    height, width = info.grid
    return {
        "image_ids.bin": (np.dtype("<u2"), (info.rows, height * width)),
        "rows.bin": (ROW, (info.rows + 1,)),
        "texts.bin": (TEXT, (info.texts + 1,)),
        "tokens.bin": (np.dtype("<u2"), (info.tokens,)),
        "ids.bin": (np.dtype("u1"), (info.id_bytes,)),
    }


def read_info(folder: Path) -> StoreInfo:
    """Return what store.json says.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    path = folder / "store.json"
    anew = "remove the folder and make the store anew"
    if not path.is_file():
        raise DataError(f"{folder} is no store of tokens: make one with vilg data tokenize")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("version") != _VERSION:
            raise DataError(f"{path} is of another version: {anew}")
        info = from_dict(StoreInfo, values)
    except (SettingError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}): {anew}") from error
    if info.languages != LANGUAGES:
        raise DataError(f"{path} has languages {', '.join(info.languages)}: {anew}")
    counts = (info.rows, info.texts, info.tokens, info.id_bytes, info.rejects)
    if (
        len(info.grid) != 2
        or min(*info.grid, info.max_text) < 1
        or min(counts) < 0
        or [name for name, *_ in filter(None, info.sha256)] != list(NAMES)
        or any(len(entry) != 2 for entry in info.sha256)
    ):
        raise DataError(f"{path} is damaged (impossible counts, or hashes that lack): {anew}")
    return info


class Store:
    """A store that is open for reading.

    Raises:
        DataError: there is none, it is damaged, or of another version.
    """

    def __init__(self, folder: Path):
        self.info = read_info(folder)
        self.folder = folder
        self._files: dict[str, tuple[int, np.dtype[Any]]] = {}
        for name, (kind, shape) in files_of(self.info).items():
            size, file = math.prod(shape) * kind.itemsize, folder / name
            if not file.is_file():
                raise self._damaged(name, "is not there")
            if (found := file.stat().st_size) != size:
                raise self._damaged(name, f"has {found} bytes, not {size}")
            descriptor = os.open(file, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            if hasattr(
                os, "posix_fadvise"
            ):  # a row is 512 bytes, and 128 KiB would be read ahead of it
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            self._files[name] = descriptor, kind

    def _read(self, name: str, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[Any]:
        """Return the records of some ranges, one behind the other."""
        descriptor, kind = self._files[name]
        if len(begins) and begins.min() < 0:
            raise IndexError(f"there is no row {begins.min()}")
        spans = zip(begins.tolist(), ends.tolist(), strict=True)
        size = kind.itemsize
        found = [os.pread(descriptor, (end - begin) * size, begin * size) for begin, end in spans]
        content = b"".join(found)
        if len(content) != int((ends - begins).sum()) * size:
            raise self._damaged(name, "has become shorter")
        return np.frombuffer(content, kind)

    def _beginnings(
        self, name: str, field: str, places: NDArray[np.int64], of: str
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the ranges of some rows or texts begin and end in another file."""
        found = self._read(name, places, places + 2)[field].reshape(-1, 2)
        begins, ends = found[:, 0].astype(np.int64), found[:, 1].astype(np.int64)
        most = files_of(self.info)[of][1][0] - (of == "texts.bin")
        # A flipped bit must not ask for all the memory there is.
        if len(begins) and (begins.min() < 0 or (begins > ends).any() or ends.max() > most):
            raise self._damaged(name, "is damaged")
        return begins, ends

    def _damaged(self, name: str, how: str) -> DataError:
        return DataError(f"{self.folder / name} {how}: remove the folder and make the store anew")

    def __len__(self) -> int:
        return self.info.rows

    def batch(self, seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """Return the rows of a step's batch."""
        return batch_ids(seed, step, batch_size, len(self))

    def ids(self, rows_B: NDArray[np.int64]) -> list[str]:
        """Return the ids of rows."""
        begins, ends = self._beginnings("rows.bin", "id", rows_B, "ids.bin")
        content = self._read("ids.bin", begins, ends).tobytes()
        lengths = [0, *(ends - begins).tolist()]
        try:
            return [content[slice(*span)].decode("utf-8") for span in pairwise(accumulate(lengths))]
        except UnicodeDecodeError as error:
            raise self._damaged("ids.bin", "is damaged") from error

    def texts_of(self, rows_B: NDArray[np.int64]) -> "Texts":
        """Return which texts these rows have."""
        first_B, end_B = self._beginnings("rows.bin", "text", rows_B, "texts.bin")
        counts_B = end_B - first_B
        owner_P = np.repeat(np.arange(len(rows_B)), counts_B)
        text_P = np.arange(len(owner_P)) + np.repeat(
            first_B - (np.cumsum(counts_B) - counts_B), counts_B
        )
        found = self._read("texts.bin", first_B, end_B)
        if len(found) and (
            found["lang"].max() >= len(LANGUAGES) or found["kind"].max() >= len(Kind)
        ):
            raise self._damaged("texts.bin", "is damaged")
        return Texts(owner_P, text_P, found["lang"], found["kind"])

    def image_ids(self, rows_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return image_ids_BN of rows."""
        height, width = self.info.grid
        begins = rows_B * (height * width)
        found = self._read("image_ids.bin", begins, begins + height * width)
        return found.reshape(len(rows_B), height * width).astype(np.int64)

    def spans_of(self, text_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where texts' tokens begin and end; without language token and end token."""
        return self._beginnings("texts.bin", "token", text_R, "tokens.bin")

    def tokens_in(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens of spans, one behind the other."""
        return self._read("tokens.bin", begins, ends).astype(np.int64)

    def tokens_of(self, text_R: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the tokens of each text."""
        begins_R, ends_R = self.spans_of(text_R)
        parts = np.split(self.tokens_in(begins_R, ends_R), np.cumsum(ends_R - begins_R))
        return parts[:-1]  # behind the last end is nothing

    def check(self) -> None:
        """Read everything and compare it with the hashes.

        Raises:
            DataError: a file has changed since it was written.
        """
        for name, said in self.info.sha256:
            if file_hash(self.folder / name) != said:
                raise self._damaged(name, "is damaged")


@dataclass(frozen=True)
class Texts:
    """All texts of some rows: text_P[i] belongs to the owner_P[i]-th row asked for."""

    owner_P: NDArray[np.int64]
    text_P: NDArray[np.int64]
    lang_P: NDArray[np.uint8]
    kind_P: NDArray[np.uint8]


def file_hash(path: Path) -> str:
    """Hash a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Rows:
    """Some rows on their way into a store.

    Attributes:
        texts: of each row, (language, kind, tokens).
    """

    ids: Sequence[str]
    image_ids_SN: NDArray[np.uint16]
    texts: Sequence[Sequence[tuple[int, Kind, Sequence[int] | NDArray[np.uint16]]]]


def open_over(path: Path) -> BinaryIO:
    """Open a file to be written from its start; whoever has written it all cuts it off there.

    So two processes that write the same bytes, one after a kill of the other or both at once, do not harm
    each other.
    """
    return open(path, "wb", opener=lambda p, flags: os.open(p, flags & ~os.O_TRUNC, 0o666))


class Writer:
    """Appends rows to a store that is not there yet; `close` gives it its name.

    Several may write the same store at once, as `open_over` says.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._files = {name: open_over(folder / name) for name in NAMES}
        self._hashes = {name: hashlib.sha256() for name in NAMES}
        self._rows = self._texts = self._tokens = self._id_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, rows: Rows) -> None:
        """Write rows after those that are there."""
        assert len(rows.ids) == len(rows.image_ids_SN) == len(rows.texts)
        starts = np.zeros(len(rows.ids), ROW)
        flat = [text for texts in rows.texts for text in texts]
        texts = np.zeros(len(flat), TEXT)
        lengths = np.array([len(tokens) for _, _, tokens in flat], np.int64)
        ids = [id.encode("utf-8") for id in rows.ids]
        starts["text"] = self._texts + _begins([len(texts) for texts in rows.texts])
        starts["id"] = self._id_bytes + _begins([len(id) for id in ids])
        texts["token"] = self._tokens + _begins(lengths)
        texts["lang"] = [lang for lang, _, _ in flat]
        texts["kind"] = [kind for _, kind, _ in flat]
        tokens = np.array([token for _, _, tokens in flat for token in tokens], "<u2")
        self._write("image_ids.bin", rows.image_ids_SN.astype("<u2"))
        self._write("rows.bin", starts)
        self._write("texts.bin", texts)
        self._write("tokens.bin", tokens)
        self._write("ids.bin", np.frombuffer(b"".join(ids), np.uint8))
        self._rows += len(starts)
        self._texts += len(texts)
        self._tokens += len(tokens)
        self._id_bytes += sum(map(len, ids))

    def _write(self, name: str, array: NDArray[Any]) -> None:
        content = array.tobytes()
        self._files[name].write(content)
        self._hashes[name].update(content)

    def close(self, info: Callable[..., StoreInfo]) -> None:
        """End the store; `info` is given what the writer knows and adds the rest."""
        self._write("rows.bin", np.array([(self._texts, self._id_bytes)], ROW))
        self._write("texts.bin", np.array([(self._tokens, 0, 0)], TEXT))
        for file in self._files.values():
            file.truncate()
            file.close()
        whole = info(
            rows=self._rows,
            texts=self._texts,
            tokens=self._tokens,
            id_bytes=self._id_bytes,
            sha256=tuple((name, hash.hexdigest()) for name, hash in self._hashes.items()),
        )
        write_whole(self._folder / "store.json", to_json(whole))


def _begins(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some neighbours begins."""
    return np.cumsum([0, *lengths], dtype=np.int64)[:-1]
