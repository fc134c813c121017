"""Writing a file whole or not at all."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file at once: a reader, a kill or a second writer never meets half of it.

    Raises:
        OSError: what was there before is untouched.
    """
    with open_whole(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write more than fits in memory; it is there when the block has ended well."""
    # Every writer fills a file of its own, so that two of one path don't mix. A name has 255 bytes at most.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    half_written = path.with_name(f".{path.stem[:40]}-{writer}.part")
    try:
        with half_written.open("wb") as file:
            yield file
        half_written.replace(path)
    except BaseException:  # Ctrl-C too
        half_written.unlink(missing_ok=True)
        raise
