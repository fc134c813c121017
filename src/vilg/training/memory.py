"""Memory: whether a network's training fits, and keeping what is freed.

glibc hands large blocks back to the system as soon as they are freed, and the system zeroes their pages
again when they are next taken. A step of training, or of a search for tokens, frees and takes the same
gigabytes every time: on two cores that was a fifth of it (docs/lab/log.md).
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from vilg.device import HOST
from vilg.errors import VilgError
from vilg.parallel import num_on_machine

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


class OutOfMemory(VilgError):
    """More is asked for than there is."""


def check_memory(
    what: str,
    build: Callable[[], nn.Module],
    device: torch.device = HOST,
    *,
    shards: int = 1,
    offload: bool = False,
    copies: int = 5,
) -> None:
    """Refuse to train what cannot fit, before any of it is made.

    Args:
        device: of this process; the host's memory is that of all processes of a machine.
        shards: processes that these five are divided among.
        copies: of each weight: itself, gradient, two moments and average, or itself alone where it stays.
        offload: they lie in the host's memory.

    Raises:
        OutOfMemory: weights, gradients, two moments and averages alone need more than is free.
    """
    try:
        with torch.device("meta"):
            num_weights = sum(weight.numel() for weight in build().parameters())
    except RuntimeError as error:  # torch counts the bytes of a tensor in 64 bits
        raise OutOfMemory(f"no memory has room for {what}: make it smaller") from error
    on_host = offload or device.type == "cpu"
    needed = copies * 4 * num_weights * (num_on_machine() if on_host else 1) / shards
    free = available_memory() if on_host else memory_of_device(device)
    if needed > free:
        raise OutOfMemory(
            f"{what} has {num_weights / 1e6:,.0f} million weights, whose training takes at least "
            f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free: make it smaller, "
            "or take a larger machine"
        )


def memory_of_device(device: torch.device) -> int:
    """Return the bytes that a process may take where it computes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory() // num_on_machine()


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes that the system has left, or that the process's control group allows at all."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    group = re.search(r"^0::/(.*)", _text(root / "proc/self/cgroup"), re.MULTILINE)
    places = ["", group[1]] if group else [""]
    for text in (
        *(_text(root / "sys/fs/cgroup" / place / "memory.max") for place in places),
        _text(root / "sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ):
        if text.strip().isdigit():  # not "max"
            limits.append(int(text))
    if found := re.search(r"MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo")):
        limits.append(1024 * int(found[1]))
    return min(limits)


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
