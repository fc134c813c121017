"""Some of the kills of `python -m tests.training.kills`, which has thirty."""

from pathlib import Path

import pytest

from tests.training.kills import Victim, kill


def test_two_processes_go_through_both_stages(tmp_path: Path) -> None:
    assert (Victim(tmp_path, seed=0).expected / "generator" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_kills_at_random_moments_change_no_weight(tmp_path: Path) -> None:
    found = kill(tmp_path, 3, seed=1)
    assert found.wholes and found.fell["inside a save"] >= 1
