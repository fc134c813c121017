"""The record of a run: one JSON line a logged step, and one line of progress for people."""

import json
import math
import time
from pathlib import Path
from typing import TextIO

from vilg.errors import VilgError
from vilg.files import write_whole
from vilg.progress import say


class NonFiniteLoss(VilgError):
    """Training went to infinity or NaN; stopped before the weights were touched."""


class Tracker:
    """Writes `log.jsonl` and prints progress with rate and remaining time.

    Values that do not depend on the machine's speed stand apart from those that do (`time`), so that
    the logs of two runs can be compared for equality.
    """

    def __init__(self, folder: Path, num_steps: int, batch_size: int, first_step: int, out: TextIO):
        self.path = folder / "log.jsonl"
        self.num_steps, self.batch_size, self.out = num_steps, batch_size, out
        self._forget_after(first_step)
        self._last_step, self._last_time = first_step, time.monotonic()

    def _forget_after(self, step: int) -> None:
        """Drop what a killed run logged after its last checkpoint: it will be logged again."""
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        # A kill in the middle of a write leaves a last line without its end.
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_whole(self.path, "".join(kept))

    def log(self, step: int, values: dict[str, float], alarm: str | None = None) -> None:
        """Record a step (counted in steps done) and say where the run stands, and what is amiss."""
        now = time.monotonic()
        steps_a_second = (step - self._last_step) / max(1e-9, now - self._last_time)
        self._last_step, self._last_time = step, now
        pairs_a_second = round(steps_a_second * self.batch_size, 2)
        record = {"step": step, **values, "time": {"pairs_per_s": pairs_a_second}}
        if alarm is not None:
            record["alarm"] = alarm
            say(alarm, self.out)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        left = (self.num_steps - step) / steps_a_second if steps_a_second else math.inf
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        say(
            f"step {step}/{self.num_steps}  {shown}  "
            f"{pairs_a_second:.1f} pairs/s  {left / 60:.1f} min left",
            self.out,
        )


def check_finite(step: int, values: dict[str, float]) -> None:
    """Stop before the optimizer's step rather than write NaN into every weight.

    Raises:
        NonFiniteLoss: names the step and the value.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"{name} is {value} at step {step}: the update is not made, and the last checkpoint is "
                "from before it; start anew with a lower peak_lr or a smaller clip_norm"
            )
