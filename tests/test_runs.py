"""The script for whoever has a GPU runs to its end without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_what_a_gpu_is_asked_runs_on_toys() -> None:
    done = subprocess.run(
        ["runs/gpu_check.sh", "--dry"],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    head, _, table = done.stdout.partition("a CPU, toys only")
    assert "[100%]" in head  # the tests that need the device, skipped
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if "|" in line]
    for name in (
        "lite_300m, as it is",
        "one base_10b block, recompute",
        "lite_300m, drawing 2 at once, as graphs",
    ):
        assert name in rows
