"""Writing a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes | str, aside: Path | None = None) -> None:
    """Write a file at once: a reader, a kill or a second writer never meets half of it.

    Args:
        aside: as `open_whole` has it.

    Raises:
        OSError: what was there before is untouched.
    """
    with open_whole(path, aside) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def open_whole(path: Path, aside: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file to write more than fits in memory; it is there when the block has ended well.

    Args:
        aside: the folder, on the same disk, in which a kill leaves what was half written; by default the file's.
    """
    # Every writer on every machine fills a file of its own, so that two of one path don't mix. A name has
    # 255 bytes at most.
    writer = os.urandom(8).hex()
    half_written = (aside or path.parent) / f".{path.stem[:40]}-{writer}.part"
    try:
        with half_written.open("wb") as file:
            yield file
        half_written.replace(path)
    except BaseException:  # Ctrl-C too
        half_written.unlink(missing_ok=True)
        raise
