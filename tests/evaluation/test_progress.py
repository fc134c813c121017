"""Progress speaks only when there is time to read it."""

import io
from collections.abc import Iterator

import pytest

from vilg.evaluation import progress
from vilg.evaluation.progress import in_batches


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two seconds pass from one look at the clock to the next."""
    seconds = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    yield


def test_slices_cover_everything_once() -> None:
    out = io.StringIO()
    slices = list(in_batches(7, 3, "names", out))
    assert [list(range(7))[part] for part in slices] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches(0, 3, "names", out)) == []
    assert out.getvalue() == ""


@pytest.mark.usefixtures("clock")
def test_a_log_file_gets_plain_lines_with_rate_and_remaining_time() -> None:
    out = io.StringIO()
    list(in_batches(100, 10, "names", out))
    lines = out.getvalue().splitlines()
    assert lines[0] == "names: 20/100 pictures, 5.0 a second, 16 s left"
    assert lines[-1] == "names: 100/100 pictures, 5.0 a second, 0 s left"
    assert len(lines) == 3
    assert "\r" not in out.getvalue()


@pytest.mark.usefixtures("clock")
def test_a_terminal_gets_one_line_written_anew() -> None:
    out = Terminal()
    list(in_batches(100, 10, "names", out))
    assert out.getvalue().count("\r") == 9
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("\n")
