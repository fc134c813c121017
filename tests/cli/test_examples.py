"""The commands and the Python that README, docs and `--help` show are run, with a toy model and data.

All blocks of a file run in one folder, in their order: what one line writes, the next may read. A line is
shrunk by the table `SHRUNK`, and a verb that it does not name fails.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.cli.conftest import Run
from tests.conftest import EMOJI
from tests.tokenizer import published

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = ".venv/bin/vilg "

PICTURE_VERBS = ("generate", "edit", "caption", "score", "answer")
# What each verb gets besides: a toy in the place of the shipped model and its data, and short runs.
# `{toy}` is a model folder, `{data}` a data set of 20 squares.
SHRUNK = {
    **dict.fromkeys(PICTURE_VERBS, "--model {toy}"),
    "demo": "--model {toy} --data {data}",
    "finetune": "--from {toy} --steps 2 --batch 2 --replay-share 0",
    "evaluate": "--model {toy} --data {data} --limit 2",
    "import": "",
    "export": "",
    "data": "",
    "plan": "",
}
# Two steps instead of hundreds, on four pictures instead of thousands.
STEPS = "loop.num_steps=2 loop.batch_size=2 loop.precision=fp32"
SQUARES = "data.source={data} data.only=[] data.limit=4"
EVERY_RUN = f"tokenizer: {STEPS} {SQUARES}; generator: {STEPS} {SQUARES} vocabulary={{vocabulary}}"
TRAINED = {
    "emoji_cpu_tiny": EVERY_RUN,
    "emoji_cpu_tiny_e2e": EVERY_RUN,
    "picture_tokenizer": f"tokenizer: {STEPS}",
    "pairs": f"generator: {STEPS} image_tokenizer={{toy}} width=16 num_heads=2",
}
# A CLIP is downloaded (tests/sampling/test_clip.py has small ones).
DOWNLOADED = "--rank"


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Return language and text of each block that holds a command or Python."""
    text = page.read_text(encoding="utf-8")
    found = [(language, block.replace("\\\n", " ")) for language, block in BLOCK.findall(text)]
    return [pair for pair in found if pair[0] == "python" or COMMAND in pair[1]]


def commands_in(block: str) -> list[list[str]]:
    lines = [line.removeprefix(COMMAND) for line in block.splitlines() if COMMAND in line]
    return [shlex.split(line, comments=True) for line in lines if DOWNLOADED not in line]


def shrunk(words: list[str], places: dict[str, Path]) -> list[str]:
    """Return a command whose every option stands, with what makes it small after it."""
    verb = words[0]
    words = [str(places["toy"]) if word == "emoji-tokenizer" else word for word in words]
    # The toy has four rows of tokens, of which 2 is the middle.
    line = shlex.join(words).replace("--first-row 4", "--first-row 2")
    # The toy's tokens are searched for as the real ones are, but not for hundreds of steps.
    line = re.sub(r"--refine \d+ --precision bf16", "--refine 1", line)
    line = re.sub(r"--refine \d+", "--refine 1", line)
    if verb == "train":
        settings = []
        for stage in TRAINED[words[1]].split("; "):
            name, _, changes = stage.partition(": ")
            settings += [f"{name}.{change}" for change in changes.split()]
        more = " ".join(["--set", *settings])
    else:
        more = SHRUNK[verb]
        if "--model " in line:  # one that an earlier line made
            more = more.replace("--model {toy}", "")
    return [*shlex.split(line), *more.format_map(places).split()]


def lay_out() -> None:
    """Lay in the current folder what a reader of the page has: photos, a mask, a checkpoint."""
    Path("photos").mkdir()
    for i in range(3):
        Image.linear_gradient("L").resize((90, 80)).rotate(90 * i).save(f"photos/{i}.png")
        Path(f"photos/{i}.txt").write_text(f"a grey picture, turned {i} times\n")
    Image.new("L", (32, 32), 255).save("mask.png")
    Image.new("RGB", (32, 32), "green").save("apple.png")
    asked = {"image": "apple.png", "question": "what colour is the apple?", "answer": "green"}
    Path("questions.jsonl").write_text(json.dumps(asked) + "\n")
    settings = published.taming_settings()
    Path("model.yaml").write_text(yaml.safe_dump(settings))
    torch.save(
        {"state_dict": published.random_state(published.taming_shapes(settings))}, "last.ckpt"
    )


@pytest.fixture
def places(toy_folder: Path, toy_data: Path) -> dict[str, Path]:
    return {"toy": toy_folder, "data": toy_data, "vocabulary": EMOJI / "tokenizer.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.name
)
def test_the_blocks_of_the_pages_run(run: Run, page: Path, places: dict[str, Path]) -> None:
    lay_out()
    for language, block in blocks_of(page):
        if language == "python":
            block = block.replace("from_pretrained()", f"from_pretrained({str(places['toy'])!r})")
            # The toy has four rows of tokens, of which 2 is the middle.
            block = block.replace("first_row=4", "first_row=2")
            exec(compile(block, page.name, "exec"), {})
            continue
        for words in commands_in(block):
            assert words[0] in {*SHRUNK, "train"}, f"{page.name}: no way to shrink {words}"
            result = run(*shrunk(words, places))
            assert result.status == 0, f"{page.name}: {shlex.join(words)}: {result.err}"
            assert result.out


def test_the_readme_shows_every_kind_of_use() -> None:
    """What the test above would not miss if it went."""
    blocks = blocks_of(PAGES[0]) + [pair for page in PAGES[1:] for pair in blocks_of(page)]
    shown = {words[0] for _, block in blocks for words in commands_in(block)}
    assert {
        "generate",
        "edit",
        "caption",
        "score",
        "answer",
        "train",
        "evaluate",
        "import",
        "export",
    } <= shown
    assert "python" in {language for language, _ in blocks}
    named = " ".join(block for _, block in blocks)
    for option in ("top-k", "top-p", "guidance-schedule", "preview", "mask", "share", "first-row",
                   "beam", "best-of", "temperature", "html", "choices", "questions"):  # fmt: skip
        assert f"--{option} " in named


def test_the_examples_of_the_help_run(run: Run, places: dict[str, Path]) -> None:
    lay_out()
    shown = "".join(run(verb, "--help").out for verb in PICTURE_VERBS)
    lines = re.findall(r"^Example: vilg (.*)$", shown, re.MULTILINE)
    assert len(lines) >= 7
    for line in lines:
        if DOWNLOADED not in line:
            result = run(*shrunk(shlex.split(line), places))
            assert result.status == 0, f"{line}: {result.err}"
