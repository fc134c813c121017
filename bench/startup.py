"""What starting costs: importing the package, and one picture from an empty shell.

    python -m bench.startup      a minute, idle

Whole processes, medians of five; a first round fills the disk's cache and is thrown away. Writes its section of
docs/benchmarks.md.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import machine, medians, publish, table

PROMPT = "green apple, 3D render"


def process(*words: str) -> Callable[[], None]:
    """Return a call that runs Python with these words to its end."""

    def run() -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    return run


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        draw = ("-m", "vilg", "generate", PROMPT, "-o", str(Path(folder) / "apple.png"))
        seconds = medians(
            {
                "import torch": process("-c", "import torch"),
                "import vilg": process("-c", "from vilg import Vilg"),
                "generate": process(*draw),
                "generate, best of 16": process(*draw, "--best-of", "16"),
            }
        )
    beyond = seconds["import vilg"] - seconds["import torch"]
    rows = [
        ["`import torch`", "", f"{seconds['import torch']:.2f}"],
        ["`from vilg import Vilg`, beyond that", "0.3", f"{beyond:.2f}"],
        ["`vilg generate`, one picture, the best of 4", "5", f"{seconds['generate']:.2f}"],
        ["the same with `--best-of 16`", "5", f"{seconds['generate, best of 16']:.2f}"],
    ]
    text = table(["", "at most, s", "measured, s"], rows)
    publish("startup", f"Machine: {machine()}. Model: emoji-64.\n\n{text}")


if __name__ == "__main__":
    main()
