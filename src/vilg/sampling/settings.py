"""Sampling settings: what may be asked for, and what holds where nothing is asked."""

import math
from dataclasses import fields, replace
from numbers import Integral, Real
from typing import Any, TypedDict, Unpack

from vilg.errors import VilgError
from vilg.model.defaults import Decoder, GuidanceSchedule, SamplingConfig

LARGEST_GUIDANCE = 100  # far beyond use, far from where logits overflow


_NUMBERS = {"temperature", "top_p", "guidance"}
_COUNTS = {"top_k", "best_of"}


class SettingError(VilgError):
    """A sampling setting outside its range."""


class Changes(TypedDict, total=False):
    """Settings in place of a model's own, as `SamplingConfig` explains them; None leaves the own."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance: float | None
    guidance_schedule: GuidanceSchedule | str | None
    decoder: Decoder | str | None
    best_of: int | None


def check(holds: bool, message: str) -> None:
    """Raise `SettingError` unless the condition holds."""
    if not holds:
        raise SettingError(message)


def check_count(count: int, what: str) -> None:
    """Raise `SettingError` unless the count is a whole number of at least 1."""
    whole = isinstance(count, Integral)
    check(whole, f"the number of {what} must be a whole number, not {count!r}")
    check(count >= 1, f"the number of {what} must be at least 1, not {count}")


def seeds_from(seed: int, count: int, what: str) -> range:
    """Return the seeds of so many results, one after the other.

    Raises:
        SettingError: none at all, or what is no whole number.
    """
    check_count(count, what)
    check(isinstance(seed, Integral), f"the seed must be a whole number, not {seed!r}")
    return range(seed, seed + count)


def settings_with(own: SamplingConfig, **changes: Unpack[Changes]) -> SamplingConfig:
    """Return the settings with those replaced that are given.

    Raises:
        SettingError: an unknown setting, or one outside its range.
    """
    names = [field.name for field in fields(SamplingConfig)]
    for name in changes:
        others = (
            "rank, progress and preview are options of their own; precision is from_pretrained's"
        )
        check(
            name in names, f"no setting is called {name}; there are {', '.join(names)} ({others})"
        )
    given: dict[str, Any] = {name: x for name, x in changes.items() if x is not None}
    for name in _NUMBERS & given.keys():
        check(isinstance(given[name], Real), f"{name} must be a number, not {given[name]!r}")
    for name in _COUNTS & given.keys():
        check(
            isinstance(given[name], Integral), f"{name} must be a whole number, not {given[name]!r}"
        )
    x = settings = replace(own, **given)
    check(
        x.temperature >= 0 and math.isfinite(x.temperature),
        f"the temperature must be 0 or more, not {x.temperature}",
    )
    check(x.top_k is None or x.top_k >= 1, f"top-k must be at least 1, not {x.top_k}")
    check(x.top_p is None or 0 < x.top_p <= 1, f"top-p must be above 0, at most 1, not {x.top_p}")
    check(
        0 <= x.guidance <= LARGEST_GUIDANCE,
        f"the guidance must be 0 to {LARGEST_GUIDANCE}, not {x.guidance}",
    )
    check(x.best_of >= 1, f"best-of must be at least 1, not {x.best_of}")
    check(x.decoder in [*Decoder], f"the decoder must be {_or(Decoder)}, not {x.decoder}")
    schedule = x.guidance_schedule
    check(
        schedule in [*GuidanceSchedule],
        f"the guidance schedule must be {_or(GuidanceSchedule)}, not {schedule}",
    )
    return replace(
        settings, decoder=Decoder(x.decoder), guidance_schedule=GuidanceSchedule(schedule)
    )


def _or(names: type[Decoder] | type[GuidanceSchedule]) -> str:
    return " or ".join(names)
