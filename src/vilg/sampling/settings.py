"""Sampling settings: what may be asked for, and what holds where nothing is asked.

Whatever else is asked for is a `SettingError`.
"""

from collections.abc import Callable, Sequence, Sized
from dataclasses import fields, replace
from numbers import Integral, Rational, Real
from typing import Any, TypedDict, Unpack

from PIL import Image

from vilg.errors import require
from vilg.model.defaults import MOST, Decoder, GuidanceSchedule, SamplingConfig
from vilg.sampling.rank import Ranker

Progress = Callable[[int, int], None]  # called with (tokens done, tokens in all)
Preview = Callable[[list[Image.Image]], None]  # called with the pictures under way

_NUMBERS = {"temperature", "top_p", "guidance"}
_COUNTS = {"top_k", "best_of"}


class Changes(TypedDict, total=False):
    """Settings in place of a model's own, as `SamplingConfig` explains them; None leaves the own."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    guidance: float | None
    guidance_schedule: GuidanceSchedule | str | None
    decoder: Decoder | str | None
    best_of: int | None


class DrawOptions(Changes, total=False):
    """How pictures are drawn: settings in place of the model's own, and who is told.

    Attributes:
        rank: chooses among the candidates of `best_of`; None asks the model itself how likely the
            prompt is as a caption.
        progress: called with (tokens done, tokens in all).
        preview: called after every row of tokens with the pictures under way as they stand, by the
            two-stage decoder, below white or the edited picture: some of those asked for, all candidates of each. An
            exception raised in it stops the drawing.
    """

    rank: Ranker | None
    progress: Progress | None
    preview: Preview | None


def whole_number(value: object, what: str) -> int:
    """Return an integer, NumPy's too, as Python's own; True and 2.0 are none."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(is_whole, f"{what} must be a whole number, not {value!r}")
    return int(value)  # type: ignore[call-overload]


def number(value: object, what: str) -> float:
    """Return a number as Python's own; True is none, nor is infinity."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # NumPy's smaller floats know no 1e300, and Python's no whole number beyond them.
    x: Any = float(value) if is_number and not isinstance(value, Rational) else value  # type: ignore[arg-type]
    require(is_number and not (x > 1e300 or x < -1e300), f"{what} must be a number, not {value!r}")
    return float(x)


def count(value: object, what: str) -> int:
    """Return how many of something are wanted."""
    found = whole_number(value, f"the number of {what}")
    require(found >= 1, f"the number of {what} must be at least 1, not {found}")
    require(found <= MOST, f"the number of {what} must be at most {MOST}, not {found}")
    return found


def seeds_from(seed: object, num: object, what: str) -> range:
    """Return the seeds of so many results, one after the other."""
    first = whole_number(seed, "the seed")
    return range(first, first + count(num, what))


def check_choices(choices: object, n: int) -> None:
    """Refuse what is no list of at least two texts and at least `n`."""
    is_list = isinstance(choices, Sequence) and not isinstance(choices, str)
    require(
        is_list and all(isinstance(choice, str) for choice in choices),  # type: ignore[attr-defined]
        "choices must be a list of texts",
    )
    num = len(choices)  # type: ignore[arg-type]
    require(num >= 2, f"there must be at least two choices, not {num}")
    require(n <= num, f"there are {num} choices, so at most {num} answers, not {n}")


def check_drawing(
    prompts: Sequence[str], seeds: Sequence[object], settings: SamplingConfig, **told: object
) -> list[int]:
    """Return the seeds of one picture a prompt, as Python's own integers.

    Args:
        told: the ranker, and who is told of progress.
    """
    is_list = isinstance(prompts, Sized) and not isinstance(prompts, str)
    require(is_list, "one prompt for every picture: give a list of them")
    require(len(prompts) > 0, f"the number of pictures must be at least 1, not {len(prompts)}")
    require(isinstance(seeds, Sized), f"a seed for every picture: give a list, not {seeds!r}")
    require(
        len(seeds) == len(prompts),
        f"a seed for every picture: there are {len(seeds)} for {len(prompts)}",
    )
    require(
        told["rank"] is None or settings.best_of > 1,
        "a ranker chooses among candidates: set best_of",
    )
    for name, function in told.items():
        message = f"{name} must be a function, not {function!r}"
        require(function is None or callable(function), message)
    return [whole_number(seed, "the seed") for seed in seeds]


def settings_with(
    own: SamplingConfig, has_end_to_end: bool = True, **changes: Unpack[Changes]
) -> SamplingConfig:
    """Return the settings with those replaced that are given."""
    names = [field.name for field in fields(SamplingConfig)]
    for name in changes:
        others = (
            "rank, progress and preview are options of their own; precision is from_pretrained's"
        )
        require(
            name in names, f"no setting is called {name}; there are {', '.join(names)} ({others})"
        )
    given: dict[str, Any] = {name: x for name, x in changes.items() if x is not None}
    for kind, those in ((number, _NUMBERS), (whole_number, _COUNTS)):
        given |= {name: kind(given[name], name) for name in those & given.keys()}
    x = replace(own, **given)
    for name, choices in (("decoder", Decoder), ("guidance_schedule", GuidanceSchedule)):
        value, title = getattr(x, name), name.replace("_", " ")
        require(value in [*choices], f"the {title} must be {' or '.join(choices)}, not {value}")
    require(
        has_end_to_end or x.decoder == Decoder.TWO_STAGE,
        "this model has no end-to-end decoder: train one, or take the two-stage decoder",
    )
    schedule = GuidanceSchedule(x.guidance_schedule)
    return replace(x, decoder=Decoder(x.decoder), guidance_schedule=schedule)
