"""Which files of a folder are pictures."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.data.sources import picture
from vilg.data.pairs import DataError, Pair
from vilg.data.pictures import is_data_set, list_pictures, load_pictures, tell
from vilg.images import ImageError


def test_pictures_are_found_below_and_sorted(tmp_path: Path) -> None:
    names = ("b.PNG", "a.jpg", "deep/er/c.webp", "notes.txt", "deep/d.jpeg", "x.HEIC", "y.heic")
    for name in (*names, "._a.jpg", ".cache/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    files, others = list_pictures(tmp_path)
    assert others == {".txt": 1, ".heic": 2} and tell(others) == "2 .heic, 1 .txt"
    found = [str(path.relative_to(tmp_path)) for path in files]
    assert found == ["a.jpg", "b.PNG", "deep/d.jpeg", "deep/er/c.webp"]
    assert not is_data_set(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert is_data_set(tmp_path)


def test_no_folder_and_no_picture_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none is not a folder"):
        list_pictures(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(DataError, match=r"holds no picture \(\.png.*\), but 1 \.txt"):
        list_pictures(tmp_path)


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    shown, elsewhere = tmp_path / "shown", tmp_path / "elsewhere"
    for path in (shown / "own" / "a.png", elsewhere / "b.png", elsewhere / "deep" / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (shown / "0").symlink_to(shown / "own")  # of a folder that is read anyway
    (shown / "1").symlink_to(elsewhere)
    (shown / "2").symlink_to(elsewhere / "deep")
    (shown / "gone.png").symlink_to(tmp_path / "none.png")
    files, others = list_pictures(shown)
    assert [str(path.relative_to(shown)) for path in files] == [
        "1/b.png",
        "1/deep/c.png",
        "own/a.png",
    ]
    assert others == {"link to a folder that was read": 2, "link to nothing": 1}


@pytest.mark.parametrize("target", [".", "..", "deep", "beside"])
def test_a_folder_that_holds_itself_is_refused(target: str, tmp_path: Path) -> None:
    deep = tmp_path / "shown" / "deep"
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(b"")
    if target == "beside":  # by way of a folder elsewhere
        (tmp_path / "beside").mkdir()
        (tmp_path / "beside" / "back").symlink_to(tmp_path / "shown")
        (deep / "loop").symlink_to(tmp_path / "beside")
    else:
        (deep / "loop").symlink_to(deep if target == "deep" else deep / target)
    with pytest.raises(DataError, match=r"(loop|back) is a link to a folder that it lies in"):
        list_pictures(tmp_path / "shown")


def test_an_unreadable_picture_is_named_whatever_it_lies_in(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"words")
    with pytest.raises(ImageError, match=r"bad.png is not a readable picture"):
        load_pictures([tmp_path / "bad.png"], 8)
    apple = Pair(id="apple", place="pairs.jsonl line 2", picture=partial(bytes, picture(0)[:40]))
    with pytest.raises(
        ImageError, match=r"the picture of apple \(pairs.jsonl line 2\) is not a read"
    ):
        load_pictures([replace(apple, picture=partial(bytes, picture(1))), apple], 8)
