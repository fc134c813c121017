"""The folder of a run: which stages it has begun, with which settings and data, and who is at it."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilg.config import from_dict, to_json
from vilg.errors import SettingError, VilgError
from vilg.files import write_whole
from vilg.training.checkpoint import CheckpointError, find
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun


class RunError(VilgError):
    """An output folder that is in use, or settings that do not fit together."""


def read_recipe(out: Path) -> Recipe:
    """Return the settings that a run was last started with.

    Raises:
        CheckpointError: there is no run.
        SettingError: the file is damaged, or of a version with other settings.
    """
    path = out / "config.json"
    if not path.exists():
        raise CheckpointError(f"nothing to resume in {out}: start without --resume")
    try:
        return from_dict(Recipe, _read(path))
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from error


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make a folder and keep every other run out of it; leave none where nothing was put in.

    Raises:
        RunError: another run is at work there.
    """
    made = [place for place in (out, *out.parents) if not place.exists()]
    out.mkdir(parents=True, exist_ok=True)
    path = (
        out / "lock"
    )  # what a killed run leaves behind holds nobody back: the system frees the lock
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another run is at work in {out}: wait for its end, or choose another --out"
            ) from error
        if os.fstat(lock.fileno()).st_nlink == 0:  # and the path may be a third run's by now
            raise RunError(f"another run has just ended in {out}: try again")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            for place in made:
                if any(place.iterdir()):
                    break
                place.rmdir()


@dataclass(frozen=True)
class Stage:
    """A stage's folder; it has begun once a checkpoint or its model is saved, and is fixed from then on."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def is_finished(self) -> bool:
        return (self.model / "config.json").exists()  # written last

    @property
    def base(self) -> Path:
        """A model folder of all that a generator has besides what is learnt; written before the first step."""
        return self.folder / "base"

    @property
    def adapter(self) -> Path:
        """What was learnt beside `base`, where that is an adapter; `model` has both."""
        return self.folder / "adapter"

    @property
    def checkpoints(self) -> dict[int, Path]:
        """The folders of whole checkpoints by their steps."""
        return find(self.folder / "checkpoints")

    @property
    def has_checkpoint(self) -> bool:
        return bool(self.checkpoints)

    def settings(self) -> TokenizerRun | GeneratorRun:
        """Return what the stage was begun with.

        Raises:
            SettingError: damaged, or of a version with other settings.
        """
        path = self.folder / "config.json"
        values = _read(path)
        is_generator = isinstance(values, dict) and "vocabulary" in values
        try:
            return (
                from_dict(GeneratorRun, values) if is_generator else from_dict(TokenizerRun, values)
            )
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from error

    def check(self, settings: TokenizerRun | GeneratorRun) -> None:
        """Refuse other settings than those the stage has begun with.

        Raises:
            RunError: names the first setting that differs, and what it was.
        """
        if not self.has_begun:
            return
        path = self.folder / "config.json"
        now, before = (_learnt(values) for values in (json.loads(to_json(settings)), _read(path)))
        if before != now:
            key, was = _first_difference(before, now, self.folder.name)
            raise RunError(
                f"{self.folder} was begun with {key}={json.dumps(was, ensure_ascii=False)}, as {path.name} "
                "there says: leave that setting as it was, or start a new --out"
            )

    @property
    def has_begun(self) -> bool:
        return self.is_finished or self.has_checkpoint

    def begin(self, settings: TokenizerRun | GeneratorRun, data: str) -> None:
        """Note what the stage is made with, and the digest of its data; or see that both are the same.

        Raises:
            RunError: pictures were added, taken away or changed since the stage began.
        """
        notes = {"config.json": to_json(settings), "data.txt": data}
        if not self.has_begun:
            if any(_differs(self.folder / name, note) for name, note in notes.items()):
                self.clear()
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, note in notes.items():
                write_whole(self.folder / name, note)
        elif _differs(self.folder / "data.txt", data):
            raise RunError(
                f"the data are not those that {self.folder} began with: put them back, or start a "
                "new --out"
            )

    def clear(self) -> None:
        """Take away what was made before anything was saved."""
        if self.folder.exists() and not self.has_begun:
            shutil.rmtree(self.folder)


def _learnt(settings: Any) -> Any:
    """Return a stage's settings without how it lies on devices, which may change while it is trained."""
    if not isinstance(settings, dict):
        return settings
    kept = {key: value for key, value in settings.items() if key != "parallel"}
    if isinstance(loop := kept.get("loop"), dict):
        kept["loop"] = {key: value for key, value in loop.items() if key != "accumulate"}
    return kept


def _differs(path: Path, note: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != note


def _read(path: Path) -> Any:
    """Read a file of settings that may be damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{path} does not hold a run's settings: start a new --out") from error


def _first_difference(before: Any, now: Any, where: str) -> tuple[str, Any]:
    """Return the first key, in dotted form, that has changed, and what it was."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return _first_difference(before.get(key), now.get(key), f"{where}.{key}")
    return where, before
