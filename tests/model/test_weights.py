"""Weights in shards: what is written is what is read, in no more memory, and damage is one clear line."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.model.test_folder import GENERATOR, contents, refusal, toy
from vilg.model.folder import ModelError, load_model, read_config, save_model, weights_hash
from vilg.model.generator import Generator
from vilg.model.patterns import Pattern
from vilg.model.weights import DTYPES, read_weights, write_weights

SHARD = 1000  # bytes; some weights of the toy are larger
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The toy model in many shards."""
    save_model(tmp_path / "toy", toy(), shard_bytes=SHARD)
    return tmp_path / "toy"


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-00001-of-*.safetensors"))


def last_shard(folder: Path) -> Path:
    return max(folder.glob("model-*.safetensors"))


def test_every_weight_is_in_the_shard_that_the_index_names(folder: Path) -> None:
    generator = toy().generator
    assert generator is not None
    halves = {name: value.half() for name, value in generator.state_dict().items()}
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in halves.values())
    assert index["weight_map"].keys() == halves.keys()
    shards = sorted(folder.glob("model-*"))
    numbers = range(1, len(shards) + 1)
    assert [path.name for path in shards] == [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in numbers
    ]
    assert not (folder / "model.safetensors").exists()
    for path in shards:
        held = load_file(path)
        assert {*held} == {name for name, file in index["weight_map"].items() if file == path.name}
        assert all(torch.equal(value, halves[name]) for name, value in held.items())
        assert len(held) == 1 or sum(value.nbytes for value in held.values()) <= SHARD


def test_shards_and_one_file_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder)
    save_model(tmp_path / "alone", loaded)
    save_model(tmp_path / "toy alone", toy())
    assert contents(tmp_path / "alone") == contents(tmp_path / "toy alone")
    # Written again, shards are the same shards, and nothing is left of those that it had.
    save_model(tmp_path / "again", loaded, shard_bytes=SHARD)
    assert contents(tmp_path / "again") == contents(folder)
    assert weights_hash(tmp_path / "again") == weights_hash(folder)
    save_model(folder, loaded)
    assert contents(folder) == contents(tmp_path / "alone")


@pytest.mark.parametrize("name", DTYPES)
def test_a_model_keeps_the_precision_of_its_files(name: str, tmp_path: Path) -> None:
    model = replace(toy(), stored_as=DTYPES[name])
    assert model.generator is not None
    save_model(tmp_path / "first", model)
    held = load_file(tmp_path / "first" / "model.safetensors")
    assert {value.dtype for value in held.values()} == {DTYPES[name]}
    assert read_config(tmp_path / "first").dtype == name
    loaded = load_model(tmp_path / "first")
    assert loaded.generator is not None
    for key, value in model.generator.state_dict().items():
        assert torch.equal(loaded.generator.state_dict()[key], value.to(DTYPES[name]).float()), key
    save_model(tmp_path / "second", loaded)
    assert contents(tmp_path / "second") == contents(tmp_path / "first")
    # As it lies, so it may stay; and rounding twice is rounding once.
    stays = load_model(tmp_path / "first", dtype=DTYPES[name]).generator
    assert stays is not None
    assert all(torch.equal(value, held[key]) for key, value in stays.state_dict().items())


def test_half_precision_holds_less_than_bf16(tmp_path: Path) -> None:
    """On the way to a file, and out of one."""
    model = toy()
    assert model.generator is not None
    with torch.no_grad():
        model.generator.image_head.bias[0] = -65519.0  # the last that is rounded to 65504
    save_model(tmp_path / "just", model)
    with torch.no_grad():
        model.generator.image_head.bias[0] = -65520.0
    with pytest.raises(
        ModelError, match=r"image_head\.bias .* 65520 .* store it in bf16, or train"
    ):
        save_model(tmp_path / "new", model)
    assert not (tmp_path / "new").exists()
    save_model(tmp_path / "new", replace(model, stored_as=torch.bfloat16))
    load_model(tmp_path / "new", dtype=torch.bfloat16)
    with pytest.raises(ModelError, match=r"image_head\.bias reaches 65536, more than fp16 holds"):
        load_model(tmp_path / "new", dtype=torch.float16)
    with torch.no_grad():
        model.generator.image_head.bias[0] = 3.4e38  # nearer to 2^128 than to the largest of bf16
    with pytest.raises(ModelError, match=r"image_head\.bias of the Generator reaches 3\.4e\+38"):
        save_model(tmp_path / "newer", replace(model, stored_as=torch.bfloat16))


def drop_a_shard(folder: Path) -> None:
    last_shard(folder).unlink()


def cut_a_shard(folder: Path) -> None:
    content = last_shard(folder).read_bytes()
    last_shard(folder).write_bytes(content[:-10])


def edit_shard(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(last_shard(folder))
    change(weights)
    save_file(weights, last_shard(folder))


def take_a_weight_out(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights["text_head.bias"]

    edit_shard(folder, change)


def put_a_weight_in_twice(folder: Path) -> None:
    twice = load_file(first_shard(folder))
    edit_shard(folder, lambda weights: weights.update(twice))


def put_a_strange_weight_in(folder: Path) -> None:
    edit_shard(folder, lambda weights: weights.update({"text_head.gain": torch.ones(2).half()}))


def store_one_in_another_precision(folder: Path) -> None:
    edit_shard(folder, lambda weights: weights.update({k: v.float() for k, v in weights.items()}))


def store_one_in_another_shape(folder: Path) -> None:
    edit_shard(folder, lambda weights: weights.update({"text_head.bias": torch.zeros(3, 5).half()}))


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / INDEX).read_text())
    change(values)
    (folder / INDEX).write_text(json.dumps(values))


def name_a_weight_that_is_nowhere(folder: Path) -> None:
    file = first_shard(folder).name
    edit_index(folder, lambda values: values["weight_map"].update({"text_head.gain": file}))


def name_a_file_elsewhere(folder: Path) -> None:
    file = f"../toy/{first_shard(folder).name}"
    edit_index(folder, lambda values: values["weight_map"].update({"text_head.bias": file}))


def name_a_weight_twice(folder: Path) -> None:
    text = (folder / INDEX).read_text()
    line = f'"text_head.bias": "{last_shard(folder).name}"'
    assert line in text
    (folder / INDEX).write_text(text.replace(line, f"{line}, {line}"))


def name_no_file(folder: Path) -> None:
    edit_index(folder, lambda values: values["weight_map"].update({"text_head.bias": 3}))


def break_the_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {')


def leave_the_map_out(folder: Path) -> None:
    edit_index(folder, lambda values: values.pop("weight_map"))


def drop_the_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def leave_one_file_there_too(folder: Path) -> None:
    save_file({"text_head.bias": torch.zeros(3)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_a_shard, "cannot read {last}: No such file"),
        (cut_a_shard, "cannot read {last}: "),
        (take_a_weight_out, "{last} do not agree on whether text_head.bias is there"),
        (put_a_weight_in_twice, "{last} do not agree on whether text_embedding.weight is there"),
        (put_a_strange_weight_in, "{last} do not agree on whether text_head.gain is there"),
        (store_one_in_another_precision, "{last}: text_head.bias is in F32, and must be in fp16"),
        (
            store_one_in_another_shape,
            "{last} does not fit its config.json: text_head.bias is [3, 5]",
        ),
        (name_a_weight_that_is_nowhere, "{first} do not agree on whether text_head.gain is there"),
        (name_a_file_elsewhere, "which is no shard of it"),
        (name_a_weight_twice, "text_head.bias is there twice"),
        (name_no_file, "its weight_map names no files"),
        (break_the_index, "is no index of weights"),
        (leave_the_map_out, "is no index of weights"),
        (drop_the_index, "cannot read {folder}/model.safetensors: No such file"),
        (leave_one_file_there_too, "are of two models: take away the wrong one"),
    ],
)
def test_damaged_shards_are_said(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    first, last = first_shard(folder).name, last_shard(folder).name
    if "cannot read" in said:
        last = str(folder / last)
    damage(folder)
    assert said.format(folder=folder, first=first, last=last) in refusal(folder)


def test_a_weight_larger_than_a_shard_has_one_for_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 40), nn.Linear(40, 1))
    write_weights(tmp_path, "model", network, torch.float32, 40)
    held = [[*load_file(path)] for path in sorted(tmp_path.glob("*.safetensors"))]
    # Of 4 bytes a number; the three small ones are exactly 40 bytes.
    assert held == [["1.weight"], ["1.bias"], ["2.weight"], ["0.bias", "0.weight", "2.bias"]]
    read, stored_as = read_weights(
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 40), nn.Linear(40, 1)),
        tmp_path,
        "model",
    )
    assert stored_as is torch.float32
    pairs = zip(read.parameters(), network.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


MEASURED = """
import sys
from pathlib import Path
from vilg.model.folder import load_model, save_model

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

def begin():
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
    return memory("VmRSS")

small, large, out = map(Path, sys.argv[1:])
save_model(out, load_model(small))  # what the first load and save bring in for good
before = begin()
model = load_model(large)
print(memory("VmHWM") - before)
before = begin()
save_model(out, model, shard_bytes=16_000_000)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured as Linux does")
def test_loading_and_saving_hold_no_second_copy(tmp_path: Path) -> None:
    config = replace(GENERATOR, width=512, num_heads=2, patterns=(Pattern.ROW,) * 8)
    with torch.device("meta"):
        shape = Generator(config)
    generator = shape.to_empty(device="cpu")
    for weight in generator.parameters():
        nn.init.zeros_(weight)
    weights, shard, slack = sum(each.nbytes for each in generator.parameters()), 16e6, 24e6
    assert weights > 100e6
    model = replace(toy(), generator=generator, stored_as=torch.float32)
    save_model(tmp_path / "large", model, shard_bytes=int(shard))
    save_model(tmp_path / "small", toy())
    folders = [str(tmp_path / name) for name in ("small", "large", "out")]
    command = [sys.executable, "-c", MEASURED, *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loading, saving = map(int, done.stdout.split())
    assert 0.9 * weights < loading <= weights + shard + slack
    assert saving <= shard + slack
