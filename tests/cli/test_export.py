"""`vilg export`: a run or a model becomes one folder that every verb reads, and what is said of it."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import Run, files_under, full_disk
from tests.training.test_export import (
    GENERATOR_RUN,
    TOKENIZER_RUN,
    generator_averages,
    random_like,
    write_stage,
)
from vilg.model.folder import load_model
from vilg.tokenizer.image_tokenizer import ImageTokenizer


def test_an_export_says_what_it_took_and_is_a_model(run: Run) -> None:
    write_stage(Path("run"), GENERATOR_RUN, {2: generator_averages(0)})
    result = run("export", "run", "--out", "model")
    assert (result.status, result.err) == (0, "")
    weights = sum(value.numel() for value in generator_averages(0).values()) / 1e6
    assert result.out == f"model: averages of step 2 of run/generator, {weights:.1f} M in fp16\n"
    assert load_model(Path("model")).generator is not None
    # Taken again from what was made, not a byte is another.
    run("export", "model", "--out", "again")
    assert files_under(Path("again")) == files_under(Path("model"))


def test_a_model_is_written_in_another_precision_and_in_shards(run: Run, toy_folder: Path) -> None:
    shape = ("--dtype", "bf16", "--shard-size", "0.0001")
    result = run("export", toy_folder, "--out", "short", *shape)
    assert result.status == 0 and result.out.startswith(f"short: weights of {toy_folder}, ")
    index = json.loads(Path("short/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    held = load_file(toy_folder / "model.safetensors")
    for name, file in index["weight_map"].items():
        value = load_file(Path("short") / file)[name]
        assert value.equal(held[name].bfloat16()), name
    tokenizers = [folder / "image_tokenizer.safetensors" for folder in (toy_folder, Path("short"))]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
    drawn = run("generate", "red apple", "--model", "short", "-o", "a.png")
    assert drawn.status == 0 and Path("a.png").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("missing --out new", "no model at missing"),
        ("toy --out full", "full is not empty: name another folder"),
        ("toy --out toy", "toy is not empty"),
        ("toy --out file", "is not a folder"),
        ("toy --out new --step 3", "toy has no checkpoints: leave --step out"),
        ("toy --out new --shard-size 0", "--shard-size must be over 0, not 0"),
        ("toy --out new --shard-size nan", "--shard-size must be over 0, not nan"),
        ("run --out new --step 3", "no checkpoint of step 3: there are 2"),
        ("run --out new --dtype bf16", "an image tokenizer stays in fp16"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    run: Run, toy_folder: Path, command: str, said: str
) -> None:
    shutil.copytree(toy_folder, "toy")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("file").write_text("a file")
    averages = random_like(ImageTokenizer(TOKENIZER_RUN.model).state_dict(), "learner.tokenizer.")
    write_stage(Path("run"), TOKENIZER_RUN, {2: averages})
    before = files_under(Path())
    result = run("export", *command.split())
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and said in result.err
    assert files_under(Path()) == before


def test_a_full_disk_leaves_nothing(run: Run, toy_folder: Path) -> None:
    with full_disk(after=10_000):
        result = run("export", toy_folder, "--out", "deep/model")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "cannot write the model to deep/model" in result.err
    assert files_under(Path()) == {}
