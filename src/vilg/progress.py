"""How far a long job is, on stderr: a bar on a terminal, plain lines in a log."""

import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

# Seconds. Whoever waits less wants no progress, and a log wants few lines.
PATIENCE = 3.0
INTERVAL = 10.0


def say(message: str, stream: TextIO | None = None) -> None:
    """Print a line, on stderr unless told otherwise; a reader of stderr that has gone ends no work."""
    stream = stream or sys.stderr
    try:
        print(message, file=stream, flush=True)
    except BrokenPipeError:
        if stream is not sys.stderr:
            raise
        abandon(stream)


def abandon(stream: TextIO) -> None:
    """Drop what a stream could not write, or Python would try again, loudly, at its exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress:
    """Says done, rate and remaining time of a job that takes longer than `patience`.

    with Progress() as progress:
        model.generate(prompt, progress=progress)
    """

    def __init__(
        self,
        unit: str = "tokens",
        *,
        what: str = "",
        stream: TextIO | None = None,
        patience: float = PATIENCE,
        interval: float = INTERVAL,
    ):
        self._unit, self._interval = unit, interval
        self._what = f"{what}: " if what else ""
        self._stream = stream or sys.stderr
        self._begin = time.monotonic()
        self._next = self._begin + patience
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int, total: int | None) -> None:
        """Take note that `done` of `total` are done, or of a number that is not known."""
        now = time.monotonic()
        if now < self._next:
            return
        rate = done / max(1e-9, now - self._begin)
        if self._stream.isatty():
            self._show(done, total, rate)
            return
        self._next = now + self._interval
        of, left = "", ""
        if total is not None:
            of, left = f"/{total}", f"  {(total - done) / max(1e-9, rate):.0f} s left"
        say(
            f"{self._what}{done}{of} {self._unit}  {_of(rate)} {self._unit}/s{left}",
            self._stream,
        )

    def _show(self, done: int, total: int | None, rate: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self._what),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(f"{self._unit}  {{task.fields[rate]}}/s "),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
                transient=True,
                # Or what is printed meanwhile, the paths of pictures, would go to this console: fine on
                # the terminal that both write to, and lost to a pipe or a file.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task("", rate=_of(rate))
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, rate=_of(rate))


def _of(rate: float) -> str:
    """Show a rate; slow ones with a decimal, or they would be none."""
    return f"{rate:.0f}" if rate >= 9.5 else f"{rate:.1f}"


def in_batches(num: int, size: int, what: str, stream: TextIO | None = None) -> Iterator[slice]:
    """Yield the slices of `num` pictures in batches, and say between them how far the work is."""
    with Progress("pictures", what=what, stream=stream) as progress:
        for first in range(0, num, size):
            done = min(first + size, num)
            yield slice(first, done)
            progress(done, num)
