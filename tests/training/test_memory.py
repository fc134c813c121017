"""Freed memory is used again, once the process has asked for it and not before."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from vilg.training.memory import keep_freed_memory

def page_faults():
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10 * 2**20).add_(1)  # 40 MiB: of over 32 MiB glibc keeps nothing by itself
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults

plain = page_faults()
assert keep_freed_memory()
print(plain, page_faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_not_fetched_again() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    plain, kept = map(int, done.stdout.split())
    # After some rounds: an aligned block takes a little more than the one that was freed. A round takes
    # 10,240 pages of 4 KiB, or 20 where the system makes them large.
    assert kept < 8 < plain
