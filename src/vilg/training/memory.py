"""Keep freed memory in the process while training on a CPU, or searching for tokens.

glibc hands large blocks back to the system as soon as they are freed, and the system zeroes their pages
again when they are next taken. A step of training frees and takes the same gigabytes every time: on two
cores that was a fifth of it (docs/lab/log.md).
"""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1  # mallopt(3): disables trimming


def keep_freed_memory() -> bool:
    """Tell malloc to keep what is freed, for the rest of the process; return whether it could.

    A setting of the whole process, so it belongs into commands and never into an import. Between peaks
    nothing is given back, and blocks of many sizes may raise the peak itself.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
