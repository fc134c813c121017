"""Freed memory is used again where that was asked for; what cannot fit is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from vilg.training.memory import OutOfMemory, available_memory, check_memory

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


def test_what_is_free_is_the_least_of_what_system_and_control_groups_say(tmp_path: Path) -> None:
    def say(name: str, text: str) -> int:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
        return available_memory(tmp_path)

    assert available_memory(tmp_path) > 2**28  # of the machine
    assert say("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB") == 8000 * 1024
    assert say("sys/fs/cgroup/memory.max", "max") == 8000 * 1024
    assert say("sys/fs/cgroup/memory.max", "7000000") == 7_000_000
    say("proc/self/cgroup", "1:name=systemd:/\n0::/user.slice/a")
    assert say("sys/fs/cgroup/user.slice/a/memory.max", "6000000") == 6_000_000
    assert say("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000000") == 5_000_000


def test_a_network_is_refused_unmade_where_its_training_cannot_fit() -> None:
    check_memory("a small one", lambda: nn.Linear(10, 10))
    with pytest.raises(
        OutOfMemory, match=r"^a large one has 1,000,000 million weights, .* 20,000.0 GB"
    ):
        check_memory("a large one", lambda: nn.Linear(10**6, 10**6, bias=False))
