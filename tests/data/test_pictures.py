"""Which files of a folder are pictures."""

from pathlib import Path

import pytest

from vilg.data.pictures import is_data_set, list_pictures, tell
from vilg.data.shards import DataError


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
