"""The judge, loaded once."""

import pytest

from vilg.evaluation.judge import Judge, load_judge


@pytest.fixture(scope="session")
def judge() -> Judge:
    return load_judge()
