"""Writing a file whole or not at all."""

import os
import threading
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file at once: a reader, a kill or a second writer never meets half of it.

    Raises:
        OSError: what was there before is untouched.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    # Every writer fills a file of its own, so that two of one path don't mix. A name has 255 bytes at most.
    writer = f"{os.getpid()}-{threading.get_ident()}"
    half_written = path.with_name(f".{path.stem[:40]}-{writer}.part")
    try:
        half_written.write_bytes(content)
        half_written.replace(path)
    except BaseException:  # Ctrl-C too
        half_written.unlink(missing_ok=True)
        raise
