"""Some of the kills of `python -m tests.data.kills`, which has thirty of each verb."""

from pathlib import Path

import pytest

from tests.data.kills import VERBS, kill


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_kills_at_random_moments_change_no_byte(verb: str, tmp_path: Path) -> None:
    found = kill(verb, tmp_path, 3, seed=1)
    assert found.wholes and found.fell.total() >= 3
