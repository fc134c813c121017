"""Files are written whole or not at all."""

import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vilg.files import write_whole


def test_writers_of_one_path_do_not_mix(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_whole(tmp_path / "file", contents[i % 8]), range(200)))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("old")
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "folder", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_has_the_permissions_of_any_new_file_and_the_longest_name(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / ("名" * 85)
    plain.write_text("")
    write_whole(ours, "words")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert ours.read_text(encoding="utf-8") == "words"


def test_ctrl_c_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    """The interrupt comes while the file is written: from a signal's handler, as Ctrl-C does."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            while True:
                write_whole(tmp_path / "file", bytes(20_000_000))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["file"])
