"""`vilg import`: published weights become a model, and what is said of them."""

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Run, files_under, full_disk
from vilg.model.folder import load_model

IMPORTS = {
    "taming": ("taming.safetensors --config taming.yaml", "f4, 40 codes of 6, 8 x 8 tokens"),
    "taming, said": (
        "taming.safetensors --kind taming --config taming.yaml --image-size 64",
        "f4, 40 codes of 6, 16 x 16 tokens for 64 x 64 pixels",
    ),
    "llamagen": (
        "llamagen.safetensors --config llamagen.yaml",
        "f4, 40 codes of 8, 64 x 64 tokens",
    ),
    "diffusers": ("vqvae", "f4, 40 codes of 7, 16 x 16 tokens for 64 x 64 pixels"),
}


@pytest.mark.parametrize(("command", "said"), IMPORTS.values(), ids=list(IMPORTS))
def test_an_import_is_a_model_and_says_what_it_is(
    run: Run, published_weights: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    here = Path.cwd()
    monkeypatch.chdir(published_weights)
    first = run("import", *command.split(), "--out", here / "first")
    assert first.status == 0, first.err
    assert first.out.count("\n") == 1 and said in first.out
    model = load_model(here / "first")
    assert model.generator is None
    assert f"fingerprint {model.image_tokenizer.fingerprint()}" in first.out
    num_weights = sum(value.numel() for value in model.image_tokenizer.state_dict().values())
    assert f"{num_weights / 1e6:.1f} M weights" in first.out
    names = ["loss.discriminator.main.0.bias", "loss.discriminator.main.0.weight"]
    left_out = f"left out what only training needs: {names[0]} and 1 more\n"
    assert first.err == (left_out if command.startswith("taming") else "")
    second = run("import", *command.split(), "--out", here / "second")
    assert second.out.replace("second", "first") == first.out
    assert files_under(here / "second") == files_under(here / "first")


def test_an_import_replaces_no_model(run: Run, published_weights: Path, toy_folder: Path) -> None:
    shutil.copytree(toy_folder, "toy")
    before = files_under(Path("toy"))
    result = run("import", published_weights / "vqvae", "--out", "toy")
    assert result.status == 2 and "holds a model already" in result.err
    assert files_under(Path("toy")) == before


def test_an_import_onto_a_full_disk_is_one_line_and_no_model(
    run: Run, published_weights: Path
) -> None:
    with full_disk(after=10_000):
        result = run("import", published_weights / "vqvae", "--out", "model")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "cannot write" in result.err
    assert files_under(Path("model")) == {}
