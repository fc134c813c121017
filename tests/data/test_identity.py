"""When two sources are the same one, and which change of a source is noticed."""

import io
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.readers.fixtures import put
from tests.data.sources import picture, write_jsonl
from vilg.data.identity import identify
from vilg.data.pack import pack
from vilg.data.pairs import DataError, Pair, Question, Reject
from vilg.data.sources import open_source

PAIR = Pair(
    id="a",
    place="line 1",
    picture=None,
    captions={"zh": ("一",), "en": ("one", "two")},
    prompts={"en": ("three",)},
    questions=(Question(lang="en", text="four?", answers=("five",)),),
    faults=("an empty caption",),
)
REJECT = Reject(place="line 2", reason="no picture", id="b")
CHANGES: list[dict[str, Any]] = [
    {"id": "b"},
    {"place": "line 0"},
    {"picture": lambda: b""},
    {"captions": {"zh": ("一",), "en": ("two", "one")}},
    {"captions": {"en": ("one", "two"), "zh": ("一",)}},  # the order of a row's texts
    {"prompts": {}},
    {"questions": ()},
    {"faults": ()},
    {"tags": {"mood": "blue"}},
]


def test_a_source_is_known_by_what_it_says() -> None:
    found = identify([PAIR, REJECT])
    same = found.sha256
    assert (found.items, found.pairs) == (2, 1)
    again: list[Pair | Reject] = [replace(PAIR), replace(REJECT, reason="in other words")]
    assert identify(iter(again)) == found
    others: list[Sequence[Pair | Reject]] = [
        [],
        [PAIR],
        [REJECT, PAIR],
        [PAIR, REJECT, REJECT],
        [PAIR, replace(REJECT, id="c")],
        [PAIR, replace(REJECT, place="line 3")],
        *((replace(PAIR, **change), REJECT) for change in CHANGES),
    ]
    assert len({same, *(identify(items).sha256 for items in others)}) == 1 + len(others)


SMALL, LARGE = picture(1), picture(1, size=(400, 400))


def sha256(source: Path | str) -> str:
    return open_source(str(source)).identity.sha256


def folder_of(folder: Path) -> Path:
    """Two pairs, a broken link and a text without a picture."""
    for name in ("a", "b"):
        put(folder / f"{name}.png", SMALL)
        put(folder / f"{name}.txt", f"picture {name}")
    put(folder / "lost.txt", "no picture")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    return folder


def test_it_does_not_matter_how_a_source_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = folder_of(tmp_path / "photos")
    same = sha256(photos)
    monkeypatch.chdir(tmp_path)
    assert {sha256(told) for told in ("photos", "photos/", "./photos", "pho*")} == {same}
    monkeypatch.chdir(photos)
    assert sha256(".") == same


def test_files_that_are_no_items_do_not_count(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos")
    same = sha256(photos)
    put(photos / ".DS_Store", "a Mac was here")
    put(photos / ".thumbnails" / "a.png", SMALL)
    put(photos / "notes.odt", "a letter")
    assert sha256(photos) == same
    put(photos / "lost-too.txt", "an item, though no pair")
    assert sha256(photos) != same


def jsonl(folder: Path, content: bytes) -> Path:
    """A table that names a picture elsewhere, so that a listing of the table's files has it nowhere."""
    put(folder / "far" / "a.png", content)
    record = {"id": "a", "image": "far/a.png", "caption": "a"}
    return write_jsonl(folder, [record])


def beside(folder: Path, content: bytes) -> Path:
    put(folder / "a.png", content)
    put(folder / "a.txt", "a")
    return folder


def tar(folder: Path, content: bytes) -> Path:
    path = put(folder / "a.tar", b"")
    with tarfile.open(path, "w") as archive:
        for name, member in (("a.png", content), ("a.txt", b"a")):
            header = tarfile.TarInfo(name)
            header.size = len(member)
            archive.addfile(header, io.BytesIO(member))
    return path


def parquet(folder: Path, content: bytes) -> Path:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    folder.mkdir()
    columns = {"id": ["a"], "image": [content], "caption": ["a"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def packed(folder: Path, content: bytes) -> Path:
    pack(open_source(str(jsonl(folder / "in", content))), folder / "out", "a")
    return folder / "out"


@pytest.mark.parametrize("lay", [jsonl, beside, tar, parquet, packed])
def test_another_picture_with_the_same_texts_is_noticed(
    tmp_path: Path, lay: Callable[[Path, bytes], Path]
) -> None:
    before = sha256(lay(tmp_path / "here", SMALL))
    assert sha256(lay(tmp_path / "copy", SMALL)) == before
    assert sha256(lay(tmp_path / "other", LARGE)) != before


def test_of_our_own_shards_every_byte_counts(tmp_path: Path) -> None:
    """Elsewhere a picture of one name and as many bytes passes for the same: the documented limit."""
    other = bytes([*SMALL[:-1], SMALL[-1] ^ 1])
    assert sha256(jsonl(tmp_path / "1", SMALL)) == sha256(jsonl(tmp_path / "2", other))
    assert sha256(packed(tmp_path / "3", SMALL)) != sha256(packed(tmp_path / "4", other))


def test_pictures_are_not_read_and_times_do_not_count(tmp_path: Path) -> None:
    photos = beside(tmp_path / "photos", SMALL)
    before = sha256(photos)
    (photos / "a.png").write_bytes(b"?" * len(SMALL))  # at another time
    assert sha256(photos) == before


def test_nothing_is_written_where_all_is_read(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos")
    source, table = open_source(str(photos)), open_source(str(jsonl(tmp_path / "table", SMALL)))
    for out in (photos, photos / "runs" / "own"):
        with pytest.raises(DataError, match="all of which is read: write outside of it"):
            source.check_outside(out)
    source.check_outside(tmp_path / "photos-packed")
    table.check_outside(tmp_path / "table" / "runs")
