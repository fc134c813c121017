"""What the options of a caption ask for together; which of them are refused is in test_api.py."""

from typing import Any

import pytest

from vilg.model.defaults import SamplingConfig
from vilg.sampling.describe import CaptionSettings, caption_settings

NOTHING: dict[str, Any] = dict.fromkeys(("seed", "temperature", "top_k", "top_p", "beam"))


@pytest.mark.parametrize(
    ("n", "asked", "beam", "seeds", "is_ranked", "temperature"),
    [
        (1, {}, None, range(1), False, 0.0),  # the likeliest word each time
        (2, {}, 4, range(2), False, 0.0),  # several differ: a beam's
        (6, {}, 6, range(6), False, 0.0),
        (1, {"beam": 3}, 3, range(1), False, 0.0),
        (2, {"temperature": 0.5, "seed": 7}, None, range(7, 9), False, 0.5),
        (1, {"best_of": 3}, None, range(3), True, 1.0),
        (3, {"best_of": 3, "seed": 5}, None, range(5, 8), True, 1.0),
        (1, {"best_of": 2, "temperature": 0.5, "top_k": 9}, None, range(2), True, 0.5),
    ],
)
def test_what_is_asked_for(
    n: int,
    asked: dict[str, Any],
    beam: int | None,
    seeds: range,
    is_ranked: bool,
    temperature: float,
) -> None:
    found = caption_settings(n, **{**NOTHING, "best_of": 1, **asked})
    words = SamplingConfig(temperature=temperature, top_k=asked.get("top_k"))
    assert found == CaptionSettings(n=n, beam=beam, seeds=seeds, is_ranked=is_ranked, words=words)
