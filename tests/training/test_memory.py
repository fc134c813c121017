"""Freed memory is used again, in a process that asked for it and in no other."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from vilg.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults = []
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20).add_(1)  # 64 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_not_fetched_again() -> None:
    def page_faults(mode: str) -> int:
        command = [sys.executable, "-c", SCRIPT, mode]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    # After some rounds: an aligned block takes a little more than the one that was freed. A round takes
    # 16,384 pages of 4 KiB, or 32 where the system makes them large.
    assert page_faults("keep") < 8 < page_faults("plain")
