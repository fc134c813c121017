"""A run that trains an adapter: what it leaves, that it goes on exactly, and what it refuses."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.training.conftest import BrokenOff, read_checkpoint
from tests.training.test_run import Breaking
from vilg.config import override
from vilg.errors import VilgError
from vilg.model.folder import load_model
from vilg.model.lora import WEIGHTS, LoRAConfig, merge_adapters
from vilg.recipes.finetune import finetune
from vilg.training.export import find_export
from vilg.training.inputs import DataConfig
from vilg.training.run import run
from vilg.training.settings import Recipe, ReplayConfig

QUICK = ("loop.num_steps=4", "loop.batch_size=4", "loop.show_every=0", "loop.save_every=2")
QUICK = (*QUICK, "optim.peak_lr=0.05")


def recipe_of(folder: Path, toy_folder: Path, *settings: str) -> Recipe:
    data = DataConfig(source=str(folder))
    recipe = finetune(str(toy_folder), data, 3, LoRAConfig(rank=2), ReplayConfig(data=data))
    return override(recipe, [f"generator.{setting}" for setting in (*QUICK, *settings)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (70, 64), colour).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {colour} square\n")
    return folder


def test_the_adapter_alone_is_learnt_and_the_model_has_it(
    pictures: Path, toy_folder: Path, tmp_path: Path
) -> None:
    log = io.StringIO()
    folder = run(recipe_of(pictures, toy_folder), tmp_path / "run", log=log)
    assert "\ngenerator: 3 pairs replayed, 25% of each batch\n" in log.getvalue()
    stage = folder.parent
    kept = read_checkpoint(max((stage / "checkpoints").iterdir()))
    assert all(".lora_" in name for name in kept)
    learnt = load_file(stage / "adapter" / WEIGHTS)
    assert all(value.count_nonzero() for value in learnt.values())
    base, made = load_model(toy_folder), load_model(folder)
    assert made.languages == base.languages  # though all captions are in one
    plain = load_file(stage / "base" / "model.safetensors")
    held = load_file(toy_folder / "model.safetensors")
    assert all(torch.equal(plain[name], value) for name, value in held.items())
    merge_adapters(base, [stage / "adapter"])
    assert base.generator is not None and made.generator is not None
    for name, value in made.generator.state_dict().items():  # which has gone through fp16
        torch.testing.assert_close(value, base.generator.state_dict()[name], atol=2e-3, rtol=2e-3)
    half, _ = find_export(str(tmp_path / "run"), 2)
    assert half.generator is not None
    name = "transformer.blocks.0.mlp_in.weight"
    assert not torch.equal(half.generator.state_dict()[name], made.generator.state_dict()[name])


def test_a_broken_off_run_goes_on_to_the_same_bytes(
    pictures: Path, toy_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(pictures, toy_folder, "loop.log_every=1")
    uncut = run(recipe, tmp_path / "uncut", log=io.StringIO())
    with pytest.raises(BrokenOff):
        run(recipe, tmp_path / "parts", log=Breaking("generator", 3))
    parts = run(recipe, tmp_path / "parts", resume=True, log=io.StringIO())
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (parts.parent / name).read_bytes() == (uncut.parent / name).read_bytes()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("init=null", "an adapter needs the model that it belongs to"),
        ("share_codes=true", "an adapter is of layers alone"),
        ("lora.rank=0", "rank must be at least 1"),
        ("replay.share=1", "must be more than 0 and less than 1"),
        ("loop.batch_size=1", "has at least 2"),
        ("width=16", "no generator of this recipe's shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    pictures: Path, toy_folder: Path, tmp_path: Path, setting: str, said: str
) -> None:
    with pytest.raises(VilgError, match=said):
        run(recipe_of(pictures, toy_folder, setting), tmp_path / "run", log=io.StringIO())
    assert not (tmp_path / "run").exists()
