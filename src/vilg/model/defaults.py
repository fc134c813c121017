"""How a model samples unless told otherwise: the settings that lie in its config.json."""

from dataclasses import dataclass
from enum import StrEnum

from vilg.config import later_key, require

LARGEST_GUIDANCE = 100  # far beyond use, far from where logits overflow
MOST = 10**6  # pictures, candidates, captions: more are a slip of the keyboard


class Decoder(StrEnum):
    """What makes pixels of drawn tokens (paper figure 1: the red path and the green one)."""

    TWO_STAGE = "two-stage"
    END_TO_END = "end-to-end"


class GuidanceSchedule(StrEnum):
    """How guidance goes from the first image token to the last."""

    CONSTANT = "constant"
    RISING = "rising"
    FALLING = "falling"


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a model samples unless told otherwise; plain sampling is the paper's (section 4.2).

    Attributes:
        temperature: what logits are divided by; 0 takes the likeliest token.
        guidance: how far to follow the prompt beyond what it says by itself; 1 is plain sampling.
        guidance_schedule: how guidance goes from the first image token to the last.
        top_k, top_p: draw among the k likeliest tokens, or the fewest that have this much probability.
        decoder: the image tokenizer's, from the tokens; or the reconstructor, from the generator's states.
        best_of: candidates drawn for each picture, of which one is kept (paper section 4.2: 60 without
            fine-tuning, 10 after it).
    """

    temperature: float = 1.0
    top_k: int | None = None
    guidance: float = 1.0
    decoder: Decoder = later_key(Decoder.TWO_STAGE)
    top_p: float | None = later_key(None)
    guidance_schedule: GuidanceSchedule = later_key(GuidanceSchedule.CONSTANT)
    best_of: int = later_key(1)

    def __post_init__(self) -> None:
        require(self.temperature >= 0, f"the temperature must be 0 or more, not {self.temperature}")
        require(
            self.top_k is None or self.top_k >= 1, f"top-k must be at least 1, not {self.top_k}"
        )
        require(
            self.top_p is None or 0 < self.top_p <= 1,
            f"top-p must be above 0, at most 1, not {self.top_p}",
        )
        require(
            0 <= self.guidance <= LARGEST_GUIDANCE,
            f"the guidance must be 0 to {LARGEST_GUIDANCE}, not {self.guidance}",
        )
        require(self.best_of >= 1, f"best-of must be at least 1, not {self.best_of}")
        require(self.best_of <= MOST, f"best-of must be at most {MOST}, not {self.best_of}")
