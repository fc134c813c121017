"""The work of `vilg generate`: which picture goes where, and drawing them in batches.

Every picture is planned and checked before the first one is drawn.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import vilg
from vilg.cli.output import OutputError, check_folder, picture_name, png, read_notes, write
from vilg.errors import VilgError
from vilg.model.folder import SamplingConfig
from vilg.pipeline import Vilg
from vilg.progress import Progress
from vilg.text import TextError

# Pictures between two writes: what a broken-off batch loses at most.
_CHUNK = 16


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


def left_to_do(
    model: Vilg, jobs: Sequence[Job], settings: SamplingConfig, say: Callable[[str], None]
) -> list[Job]:
    """Return the jobs whose picture isn't there yet, and say how many are.

    Raises:
        OutputError: a file of that name is another picture, which must not pass for this one.
    """
    done = [job for job in jobs if job.path.exists()]
    for job in done:
        if read_notes(job.path) != notes(model, job, settings):
            raise OutputError(
                f"{job.path} was drawn by another model, prompt or setting: choose another -o"
            )
    if done:
        say(f"{len(done)} of {len(jobs)} pictures are there already, skipped")
    return [job for job in jobs if job not in done]


def notes(model: Vilg, job: Job, settings: SamplingConfig) -> dict[str, str]:
    """Return what a picture's PNG file says about it: all that its pixels depend on."""
    return {
        "prompt": job.prompt,
        "seed": str(job.seed),
        "model": str(model.weights_hash),
        "settings": json.dumps(dataclasses.asdict(settings)),
        "Software": f"vilg {vilg.__version__}",
    }


def draw(model: Vilg, jobs: Sequence[Job], settings: SamplingConfig) -> Iterator[Path]:
    """Draw and write the pictures; yield each path when its file is whole."""
    cells = model.generator.config.grid.num_cells
    with Progress() as progress:
        for first in range(0, len(jobs), _CHUNK):
            chunk = jobs[first : first + _CHUNK]

            def report(done: int, _: int, first: int = first) -> None:
                progress(first * cells + done, len(jobs) * cells)

            drawn = model.draw(
                [job.prompt for job in chunk],
                [job.seed for job in chunk],
                **dataclasses.asdict(settings),
                progress=report,
            )
            for job, picture in zip(chunk, model.pictures(drawn), strict=True):
                write(job.path, png(picture, notes(model, job, settings)))
                yield job.path
