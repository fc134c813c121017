"""Lists of ids as files of several systems write them, and a source of which only those are read."""

from pathlib import Path

import pytest

from vilg.data.ids import IdSet, read_ids
from vilg.data.pairs import DataError, Pair
from vilg.data.sources import open_source


def test_a_set_has_what_it_was_given() -> None:
    some = IdSet(["b", "猫", "b", " c"])
    assert len(some) == 3
    assert "b" in some and "猫" in some and " c" in some
    assert "c" not in some and "" not in some and 1 not in some
    assert "a" not in IdSet([])
    both = some & IdSet(["猫", "z"])
    assert len(both) == 1 and "猫" in both


def test_the_fingerprint_is_that_of_the_set() -> None:
    assert IdSet(["a", "b"]).fingerprint == IdSet(["b", "a", "b"]).fingerprint
    assert IdSet(["a"]).fingerprint != IdSet(["b"]).fingerprint


@pytest.mark.parametrize("content", ["a\nb c\n猫", "\ufeffa\r\nb c\r\n猫\r\n", "a\n\n\nb c\n猫\n"])
def test_lists_of_several_systems(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(content.encode())
    ids = read_ids(path)
    assert len(ids) == 3
    assert all(id in ids for id in ("a", "b c", "猫"))


def test_lists_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the ids in .*none\.txt"):
        read_ids(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="no UTF-8"):
        read_ids(tmp_path / "latin.txt")


def test_a_source_is_read_only_where_the_ids_are_listed(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "kept.list").write_text("c\na\nnobody\n")
    source = open_source(str(tmp_path), ids=tmp_path / "kept.list")
    assert [item.id for item in source if isinstance(item, Pair)] == ["a", "c"]
    assert source.told != open_source(str(tmp_path)).told
