"""The work of `vilg generate` and `edit`: which picture goes where, and drawing them in batches.

Every picture is planned and checked before the first one is drawn.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

import vilg
from vilg.cli.output import OutputError, check_folder, picture_name, png, read_notes, write
from vilg.errors import VilgError
from vilg.images import contact_sheet, open_picture, to_array
from vilg.model.folder import SamplingConfig
from vilg.pipeline import Preview, Vilg
from vilg.progress import Progress
from vilg.sampling.rank import Ranker
from vilg.sampling.settings import Changes
from vilg.text import TextError

# Pictures between two writes: what a broken-off batch loses at most.
_CHUNK = 16
_SHOWN = 8  # pictures a row of a preview


class PromptError(VilgError):
    """A file of prompts that cannot be used, or a prompt that the model cannot read."""


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    prompt: str
    seed: int
    path: Path


def read_prompts(path: Path) -> list[str]:
    """Read prompts, one a line; empty lines don't count.

    Raises:
        PromptError: a file that is missing, not UTF-8 or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text: {error}") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise PromptError(f"{path} has no prompt: write one a line")
    return prompts


def plan(prompts: Sequence[str], n: int, seed: int, out: str) -> list[Job]:
    """Say where every picture goes: a file "*.png" for one picture, else a folder.

    Raises:
        OutputError: one file for several pictures, or a place that cannot be written.
    """
    if out.endswith(".png") and not Path(out).is_dir():
        total = len(prompts) * n
        if total > 1:
            raise OutputError(f"{out} is one file, but {total} pictures go there: name a folder")
        jobs = [Job(prompts[0], seed, Path(out))]
    else:
        jobs = [
            Job(prompt, its_seed, Path(out) / picture_name(i, prompt, its_seed))
            for i, prompt in enumerate(prompts)
            for its_seed in range(seed, seed + n)
        ]
    check_folder(jobs[0].path.parent)
    return jobs


def check_prompts(model: Vilg, prompts: Sequence[str]) -> None:
    """Encode all prompts, so that a bad one is found before another one is drawn.

    Raises:
        TextError, PromptError: an empty or too long prompt.
    """
    for i, prompt in enumerate(prompts):
        try:
            model.encode_text(prompt)
        except TextError as error:
            if len(prompts) == 1:
                raise
            raise PromptError(f"prompt {i + 1}: {error}") from error


@dataclass(frozen=True)
class Plan:
    """What all pictures of a command have in common."""

    model: Vilg
    settings: SamplingConfig
    precision: str
    rank: str | None

    def notes(self, job: Job, part: dict[str, str] | None = None) -> dict[str, str]:
        """Return what a picture's PNG file says about it: all that its pixels depend on."""
        settings = dataclasses.asdict(self.settings)
        if self.precision != "fp32":
            settings["precision"] = self.precision
        if self.rank:
            settings["rank"] = self.rank
        return {
            "prompt": job.prompt,
            "seed": str(job.seed),
            "model": str(self.model.weights_hash),
            "settings": json.dumps(settings),
            **(part or {}),
            "Software": f"vilg {vilg.__version__}",
        }


def left_to_do(plan: Plan, jobs: Sequence[Job], say: Callable[[str], None]) -> list[Job]:
    """Return the jobs whose picture isn't there yet, and say how many are.

    Raises:
        OutputError: a file of that name is another picture, which must not pass for this one.
    """
    done = [job for job in jobs if job.path.exists()]
    for job in done:
        if read_notes(job.path) != plan.notes(job):
            raise OutputError(
                f"{job.path} was drawn by another model, prompt or setting: choose another -o"
            )
    if done:
        say(f"{len(done)} of {len(jobs)} pictures are there already, skipped")
    return [job for job in jobs if job not in done]


def draw(
    plan: Plan, jobs: Sequence[Job], rank: Ranker | None, preview: Path | None
) -> Iterator[Path]:
    """Draw and write the pictures; yield each path when its file is whole."""
    cells = plan.model.generator.config.grid.num_cells * plan.settings.best_of
    with Progress() as progress:
        for first in range(0, len(jobs), _CHUNK):
            chunk = jobs[first : first + _CHUNK]

            def report(done: int, _: int, first: int = first) -> None:
                progress(first * cells + done, len(jobs) * cells)

            drawn = plan.model.draw(
                [job.prompt for job in chunk],
                [job.seed for job in chunk],
                rank=rank,
                progress=report,
                preview=_shown_in(preview),
                **changes(plan.settings),
            )
            for job, picture in zip(chunk, plan.model.pictures(drawn), strict=True):
                write(job.path, png(picture, plan.notes(job)))
                yield job.path


@dataclass(frozen=True)
class Part:
    """Which part of a picture an edit draws anew, as `Vilg.edit` wants it."""

    mask: Path | None
    first_row: int | None
    share: float | None
    raw: bool

    def notes(self, picture: Image.Image) -> dict[str, str]:
        """Return what the PNG file of an edited picture says of where it comes from."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value}
        if self.mask:
            values["mask"] = _hash(open_picture(self.mask))
        return {"edited": json.dumps({"picture": _hash(picture), **values})}


def edit(
    plan: Plan,
    jobs: Sequence[Job],
    picture: Image.Image,
    part: Part,
    rank: Ranker | None,
    preview: Path | None,
) -> Iterator[Path]:
    """Edit a picture as often as there are jobs; yield each path when its file is whole."""
    with Progress() as progress:
        edited = plan.model.edit(
            picture,
            jobs[0].prompt,
            len(jobs),
            seed=jobs[0].seed,
            **dataclasses.asdict(part),
            rank=rank,
            progress=progress,
            preview=_shown_in(preview),
            **changes(plan.settings),
        )
    notes = part.notes(picture)
    for job, result in zip(jobs, edited, strict=True):
        write(job.path, png(result, plan.notes(job, notes)))
        yield job.path


def changes(settings: SamplingConfig) -> Changes:
    """Return settings as keywords."""
    values: Any = {
        field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)
    }
    return cast(Changes, values)


def _shown_in(path: Path | None) -> Preview | None:
    """Return what writes the pictures under way to a file, up to eight in a row."""
    if path is None:
        return None

    def show(pictures: list[Image.Image]) -> None:
        rows = [pictures[i : i + _SHOWN] for i in range(0, len(pictures), _SHOWN)]
        write(path, png(contact_sheet(rows), {}))

    return show


def _hash(picture: Image.Image) -> str:
    return hashlib.sha256(to_array(picture).tobytes()).hexdigest()[:16]
