"""How far a long evaluation is: rate and remaining time on stderr, and never on stdout."""

import sys
import time
from collections.abc import Iterator
from typing import TextIO

_SILENT_S = 3.0  # what is done by then says nothing
_EVERY_S = {True: 0.5, False: 10.0}  # between two reports, on a terminal and in a log file


def in_batches(num: int, size: int, what: str, out: TextIO | None = None) -> Iterator[slice]:
    """Yield the slices of `num` pictures in batches, and report between them."""
    out = sys.stderr if out is None else out
    is_terminal = out.isatty()
    begin = time.monotonic()
    due, shown = begin + _SILENT_S, False
    for first in range(0, num, size):
        done = min(first + size, num)
        yield slice(first, done)
        now = time.monotonic()
        if now < due and not (shown and done == num):
            continue
        rate = done / (now - begin)
        line = (
            f"{what}: {done}/{num} pictures, {rate:.1f} a second, {(num - done) / rate:.0f} s left"
        )
        if is_terminal:
            print(f"\r{line}\x1b[K", end="\n" if done == num else "", file=out, flush=True)
        else:
            print(line, file=out, flush=True)
        due, shown = now + _EVERY_S[is_terminal], True
