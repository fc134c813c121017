"""Progress speaks only when there is time to read it."""

import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from vilg import progress
from vilg.progress import Progress, abandon, in_batches, say


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
    stream = io.StringIO()
    slices = list(in_batches(7, 3, "names", stream))
    assert [list(range(7))[part] for part in slices] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches(0, 3, "names", stream)) == []
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("clock")
def test_a_log_gets_plain_lines_with_rate_and_remaining_time() -> None:
    stream = io.StringIO()
    list(in_batches(100, 10, "names", stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "names: 20/100 pictures  5.0 pictures/s  16 s left"
    assert len(lines) == 2  # at 4 and 14 seconds of 20
    assert "\r" not in stream.getvalue()


def test_a_short_job_says_nothing() -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as report:
        report(1, 2)
    assert stream.getvalue() == ""


def test_a_long_job_says_where_it_stands_but_not_too_often() -> None:
    stream = io.StringIO()
    with Progress(stream=stream, patience=0, interval=1000) as report:
        report(16, 64)
        report(32, 64)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("16/64 tokens") and "tokens/s" in line and line.endswith("s left")


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = Terminal()
    with Progress(stream=stream, patience=0) as report:
        report(16, 64)
        report(32, 64)
    assert "32/64" in stream.getvalue()


def broken_pipe() -> TextIO:
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


def test_a_stderr_whose_reader_has_gone_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(patience=0, interval=0) as report:
            report(1, 2)
            report(2, 2)
        say("done")


def test_another_stream_whose_reader_has_gone_is_told_of() -> None:
    stream = broken_pipe()
    with pytest.raises(BrokenPipeError):
        say("done", stream)
    abandon(stream)
    stream.close()
