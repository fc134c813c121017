"""The work of `vilg generate` and `edit`: which picture goes where, and drawing them in batches.

Every picture is planned and checked before the first one is drawn: prompts by `PromptError`, places by
`OutputError`.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import cast

from PIL import Image

import vilg
from vilg.api import Vilg
from vilg.cli.output import (
    OutputError,
    check_file,
    check_folder,
    picture_name,
    png,
    read_notes,
    write,
)
from vilg.device import HOST
from vilg.errors import VilgError
from vilg.images import contact_sheet, to_array
from vilg.model.defaults import SamplingConfig
from vilg.progress import Progress
from vilg.sampling.clip import ClipRanker
from vilg.sampling.edit import Redrawn
from vilg.sampling.settings import Changes
from vilg.text import TextError

OTHER_PICTURES = frozenset(
    (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".svg", ".pdf")
)
_SHOWN = 8  # pictures a row of a preview


class PromptError(VilgError):
    """A file of prompts that cannot be used, or a prompt that the model cannot read."""


@dataclass(frozen=True)
class Order:
    """One picture to draw."""

    prompt: str
    seed: int
    path: Path


def read_prompts(path: Path) -> list[str]:
    """Read prompts, one a line; empty lines don't count."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text: {error}") from error
    prompts = [line.strip() for line in io.StringIO(text, newline=None) if line.strip()]
    if not prompts:
        raise PromptError(f"{path} has no prompt: write one a line")
    return prompts


def plan(prompts: Sequence[str], n: int, seed: int, out: str) -> list[Order]:
    """Say where every picture goes: a file "*.png" for one picture, else a folder."""
    if out in ("", "-"):
        raise OutputError(f"pictures go to files: name a folder or FILE.png, not {out!r}")
    is_folder = out.endswith("/") or Path(out).is_dir()
    suffix = "" if is_folder else Path(out).suffix.lower()
    if suffix in OTHER_PICTURES:
        raise OutputError(f"pictures are written as PNG, not {suffix}: name FILE.png or a folder")
    if suffix == ".png":
        total = len(prompts) * n
        if total > 1:
            raise OutputError(f"{out} is one file, but {total} pictures go there: name a folder")
        jobs = [Order(prompts[0], seed, Path(out))]
    else:
        jobs = [
            Order(prompt, its_seed, Path(out) / picture_name(i, prompt, its_seed))
            for i, prompt in enumerate(prompts)
            for its_seed in range(seed, seed + n)
        ]
    check_folder(jobs[0].path.parent)
    return jobs


def check_prompts(model: Vilg, prompts: Sequence[str], say: Callable[[str], None]) -> None:
    """Encode all prompts, so that a bad one is found before another one is drawn.

    Characters that the model knows by their bytes alone are said: it has not learnt what they mean.
    """
    for i, prompt in enumerate(prompts):
        try:
            model.encode_text(prompt)
        except TextError as error:
            if len(prompts) == 1:
                raise
            raise PromptError(f"prompt {i + 1}: {error}") from error
    if unknown := model.text_tokenizer.unknown_characters("".join(prompts)):
        say(f"these characters are not in the model's vocabulary: {unknown}")


def check_preview(path: Path | None, jobs: Sequence[Order]) -> None:
    """Find out before any drawing whether a preview can be written, and harms no result."""
    if path is None:
        return
    check_file(path)
    if path.suffix.lower() != ".png" or path.absolute() in [job.path.absolute() for job in jobs]:
        raise OutputError(f"the preview {path} must be a .png file, and not one of the results")


@dataclass(frozen=True)
class Plan:
    """What all pictures of a command have in common.

    Attributes:
        preview: file that shows the pictures under way.
    """

    model: Vilg
    settings: SamplingConfig
    ranker: ClipRanker | None
    preview: Path | None

    def notes(self, job: Order) -> dict[str, str]:
        """Return what a picture's PNG file says about it: all that its pixels depend on."""
        settings = dataclasses.asdict(self.settings)
        if self.model.precision != "fp32":
            settings["precision"] = self.model.precision
        if self.model.device != HOST:
            settings["device"] = self.model.device.type
        if self.ranker:
            settings["ranker"] = self.ranker.fingerprint
        return {
            "prompt": job.prompt,
            "seed": str(job.seed),
            "model": str(self.model.weights_hash),
            "settings": json.dumps(settings),
            "Software": f"vilg {vilg.__version__}",
        }

    def show(self, pictures: list[Image.Image]) -> None:
        """Write the pictures under way, up to eight in a row."""
        if self.preview is not None:
            rows = [pictures[i : i + _SHOWN] for i in range(0, len(pictures), _SHOWN)]
            write(self.preview, png(contact_sheet(rows), {}))


def left_to_do(plan: Plan, jobs: Sequence[Order], say: Callable[[str], None]) -> list[Order]:
    """Return the jobs whose picture isn't there yet, and say how many are."""
    left = []
    for job in jobs:
        if not job.path.exists():
            left.append(job)
            continue
        there = read_notes(job.path)
        others = [name for name, value in plan.notes(job).items() if there.get(name) != value]
        if others:
            raise OutputError(
                f"{job.path} is there, drawn with another {' and '.join(others)}: choose another -o"
            )
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} pictures are there already, skipped")
    return left


@dataclass(frozen=True)
class Edit:
    """The picture that is edited, and what of it is drawn anew.

    Attributes:
        raw: keep the decoded pixels also where nothing is drawn anew.
    """

    image: Image.Image
    part: Redrawn
    raw: bool

    def notes(self) -> dict[str, str]:
        """Return what the PNG file of an edited picture says of where it comes from."""
        mask = cast(Image.Image | None, self.part.mask)
        values = {"picture": _hash(self.image)} | vars(self.part) | {"raw": self.raw or None}
        values["mask"] = _hash(mask) if mask else None
        given = {name: value for name, value in values.items() if value is not None}
        return {"edited": json.dumps(given)}


def draw(plan: Plan, jobs: Sequence[Order], edit: Edit | None = None) -> Iterator[Path]:
    """Draw and write pictures, or edit one, a job each; yield each path when its file is whole.

    Args:
        edit: what is edited; then the jobs have one prompt.
    """
    if not jobs:
        return
    model, notes = plan.model, edit.notes() if edit else {}
    prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
    made = edit.part.edit(model.image_tokenizer, edit.image, seeds) if edit else None
    with Progress() as progress:
        each = model.draw_each(
            prompts,
            seeds,
            kept=made.kept if made else None,
            rank=plan.ranker,
            progress=progress,
            preview=plan.show if plan.preview else None,
            **cast(Changes, dataclasses.asdict(plan.settings)),
        )
        pictures: Iterator[Image.Image] = chain.from_iterable(map(model.pictures, each))
        if edit and made and not edit.raw:
            pictures = made.pasted(pictures)
        for job, picture in zip(jobs, pictures, strict=True):
            write(job.path, png(picture, plan.notes(job) | notes))
            yield job.path


def _hash(picture: Image.Image) -> str:
    return hashlib.sha256(to_array(picture).tobytes()).hexdigest()[:16]
