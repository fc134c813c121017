"""Adapters on the command line: `--lora` where a model is used, `--merge` where one is written."""

import copy
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run, files_under, notes_of
from tests.model.test_lora import CHOSEN, learnt
from vilg.model.folder import Model
from vilg.model.lora import write_adapter


@pytest.fixture
def adapter(run: Run, toy_model: Model) -> str:
    """A folder beside which the command runs."""
    weights = learnt(copy.deepcopy(toy_model.generator))
    write_adapter(Path("adapter"), CHOSEN, weights, toy_model, "toy")
    return "adapter"


def test_verbs_add_adapters_and_an_export_keeps_them(
    run: Run, toy_folder: Path, adapter: str
) -> None:
    Image.linear_gradient("L").convert("RGB").save("picture.png")
    lora, red = ("--lora", f"{adapter}=0.5", "--lora", adapter), "red apple"
    result = run("export", toy_folder, "--merge", f"{adapter}=0.5", adapter, "--out", "merged",
                 "--dtype", "fp32")  # fmt: skip
    assert result.status == 0 and f" and {adapter}=0.5, {adapter}, " in result.out
    for verb, words in (
        ("generate", (red, "--temperature", "0", "-o", "drawn.png")),
        ("edit", ("picture.png", red, "--first-row", "2", "--temperature", "0", "-o", "drawn.png")),
        ("caption", ("picture.png", "--json")),
        ("score", ("picture.png", red)),
    ):
        found = []
        for options in (("--model", toy_folder, *lora), ("--model", "merged"), ("--model", toy_folder)):  # fmt: skip
            Path("drawn.png").unlink(missing_ok=True)
            result = run(verb, *words, *options)
            assert result.status == 0, result.err
            is_drawn = Path("drawn.png").exists()
            found.append(Image.open("drawn.png").tobytes() if is_drawn else result.out)
        with_it, merged, without = found
        assert with_it != without, verb
        if verb in ("generate", "edit"):  # the others tell numbers to the last digit
            assert with_it == merged, verb
    marks = []
    for options in (lora, lora[:2], ()):
        run("generate", red, "-o", "drawn.png", "--model", toy_folder, *options)
        marks.append(notes_of("drawn.png")["model"])
    assert len(set(marks)) == 3


def test_an_adapter_that_does_not_fit_is_one_line(run: Run, toy_folder: Path, adapter: str) -> None:
    before = files_under(Path())
    for words in (
        ("generate", "red apple", "--lora", adapter),  # the shipped model is another
        ("generate", "red apple", "--lora", f"{adapter}=x", "--model", toy_folder),
        ("export", toy_folder, "--merge", "nothing", "--out", "new"),
        ("export", "emoji-tokenizer", "--merge", adapter, "--out", "new"),
    ):
        result = run(*words)
        assert (result.status, result.out) == (2, "")
        assert result.err.count("\n") == 1 and "adapter" in result.err
    assert files_under(Path()) == before
