"""The command lines that the README and `--help` give, run in their order with a toy model."""

import re
import shlex
from pathlib import Path

from PIL import Image

from tests.cli.conftest import Run

README = Path(__file__).parents[2] / "README.md"
VERBS = ("generate", "edit", "caption", "score")
# A CLIP is downloaded (tests/sampling/test_clip.py has small ones); a model is to be trained first.
LEFT_OUT = ("--rank", "--model")


def lines_of(text: str, before: str) -> list[str]:
    found = re.findall(rf"^{re.escape(before)}((?:{'|'.join(VERBS)}) .*)$", text, re.MULTILINE)
    return [line for line in found if not any(option in line for option in LEFT_OUT)]


def check(run: Run, lines: list[str], model: Path) -> None:
    for line in lines:
        if "mask.png" in line:
            with Image.open("apple.png") as apple:
                Image.new("L", apple.size, 255).save("mask.png")
        # The toy has four rows of tokens, of which 2 is the middle.
        result = run(*shlex.split(line.replace("--first-row 4", "--first-row 2")), "--model", model)
        assert result.status == 0, f"{line}: {result.err}"
        assert result.out


def test_the_lines_of_the_readme_run(run: Run, toy_folder: Path) -> None:
    lines = lines_of(README.read_text(encoding="utf-8"), ".venv/bin/vilg ")
    check(run, lines, toy_folder)
    named = " ".join(lines)
    for option in ("top-k", "top-p", "guidance-schedule", "preview", "mask", "share", "first-row",
                   "beam", "best-of", "temperature", "html"):  # fmt: skip
        assert f"--{option} " in named


def test_the_examples_of_the_help_run(run: Run, picture: Path, toy_folder: Path) -> None:
    shown = "".join(run(verb, "--help").out for verb in VERBS)
    picture.rename("apple.png")
    lines = lines_of(shown, "Example: vilg ")
    assert len(lines) == 7
    check(run, lines, toy_folder)
