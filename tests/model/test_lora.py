"""Adapters: what they compute, the files they lie in, and which models they fit."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vilg.api import Vilg
from vilg.errors import VilgError
from vilg.model.folder import Model, load_model
from vilg.model.generator import Generator, text_to_image_log_probs
from vilg.model.lora import (
    CONFIG,
    PROJECTIONS,
    WEIGHTS,
    LoRAConfig,
    add_lora,
    lora_of,
    merge_adapters,
    write_adapter,
)

CHOSEN = LoRAConfig(rank=2, alpha=6.0)
MODULE = "transformer.blocks.0.attention.qkv"


def log_probs(generator: Generator) -> Tensor:
    grid = torch.arange(16)[None].repeat(2, 1) % generator.config.num_codes
    with torch.inference_mode():
        return text_to_image_log_probs(generator, [[300, 301], []], grid)


def learnt(generator: Generator, config: LoRAConfig = CHOSEN) -> dict[str, Tensor]:
    """Put an adapter beside a generator as if it had been trained, and return its weights."""
    adapter = add_lora(generator, config, seed=1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.normal_(std=0.3, generator=random)
    return adapter.state_dict()


@pytest.fixture
def adapted(toy_model: Model) -> Generator:
    assert toy_model.generator is not None
    return copy.deepcopy(toy_model.generator)


@pytest.fixture
def folder(tmp_path: Path, toy_model: Model, adapted: Generator) -> Path:
    write_adapter(tmp_path / "adapter", CHOSEN, learnt(adapted), toy_model, "toy")
    return tmp_path / "adapter"


def merged(toy_folder: Path, *given: str | Path) -> Generator:
    model = load_model(toy_folder)
    merge_adapters(model, given)
    assert model.generator is not None
    return model.generator


def test_an_adapter_begins_as_nothing_and_alone_learns(
    toy_model: Model, adapted: Generator
) -> None:
    assert toy_model.generator is not None
    assert lora_of(adapted) is None
    adapter = add_lora(adapted, CHOSEN)
    assert lora_of(adapted) is CHOSEN
    assert torch.equal(log_probs(adapted), log_probs(toy_model.generator))
    names = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert names == {*adapter.state_dict()}
    assert names == {
        f"transformer.blocks.{i}.{part}.lora_{ab}.weight"
        for i in range(4)
        for part in ("attention.qkv", "attention.out", "mlp_in", "mlp_out")
        for ab in "AB"
    }
    own = {*adapted.state_dict()} - names
    assert own == {*toy_model.generator.state_dict()}  # no name is another
    again = add_lora(copy.deepcopy(toy_model.generator), CHOSEN).state_dict()
    other = add_lora(copy.deepcopy(toy_model.generator), CHOSEN, seed=1).state_dict()
    a, b = f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight"
    assert torch.equal(adapter.state_dict()[a], again[a]) and not torch.equal(again[a], other[a])
    assert again[b].count_nonzero() == 0


def test_a_projection_is_w_x_and_alpha_by_rank_times_b_a_x(adapted: Generator) -> None:
    weights, linear = learnt(adapted), adapted.get_submodule(MODULE)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    a, b = weights[f"{MODULE}.lora_A.weight"], weights[f"{MODULE}.lora_B.weight"]
    expected = [linear.weight @ row + linear.bias + 3.0 * (b @ (a @ row)) for row in x]
    torch.testing.assert_close(linear(x), torch.stack(expected))


def test_some_projections_may_be_left_as_they_are(adapted: Generator) -> None:
    adapter = add_lora(adapted, LoRAConfig(projections=("out",)))
    assert all(".attention.out.lora_" in name for name in adapter.state_dict())
    for wrong in ((), ("qkv", "image_head")):
        with pytest.raises(VilgError, match="projections must be some of qkv, out, mlp_in"):
            LoRAConfig(projections=wrong)


def test_merged_is_unmerged(adapted: Generator, folder: Path, toy_folder: Path) -> None:
    plain = log_probs(merged(toy_folder))
    assert (log_probs(adapted) - plain).abs().max() > 0.1
    torch.testing.assert_close(
        log_probs(merged(toy_folder, folder)), log_probs(adapted), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        log_probs(merged(toy_folder, f"{folder}=0.25", f"{folder / WEIGHTS}=0.75")),
        log_probs(adapted),
        atol=1e-4,
        rtol=1e-4,
    )
    back = log_probs(merged(toy_folder, folder, f"{folder}=-1"))
    torch.testing.assert_close(back, plain, atol=1e-4, rtol=1e-4)


def test_the_files_are_pefts(folder: Path, toy_model: Model, adapted: Generator) -> None:
    said = json.loads((folder / CONFIG).read_text())
    assert (said["peft_type"], said["r"], said["lora_alpha"]) == ("LORA", 2, 6.0)
    assert said["target_modules"] == sorted(PROJECTIONS)
    assert said["base_model_name_or_path"] == "toy"
    held = load_file(folder / WEIGHTS)
    shapes = {"attention.qkv": (32, 96), "attention.out": (32, 32)}
    shapes |= {"mlp_in": (32, 128), "mlp_out": (128, 32)}
    expected = {}
    for i in range(4):
        for name, (inputs, outputs) in shapes.items():
            place = f"base_model.model.transformer.blocks.{i}.{name}"
            expected[f"{place}.lora_A.weight"] = (2, inputs)
            expected[f"{place}.lora_B.weight"] = (outputs, 2)
    assert {name: tuple(value.shape) for name, value in held.items()} == expected
    assert {value.dtype for value in held.values()} == {torch.float32}
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = {k: v for k, v in adapted.state_dict().items() if ".lora_" in k}
    write_adapter(folder, CHOSEN, weights, toy_model, "toy")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_peft_reads_the_folder(folder: Path, toy_model: Model, adapted: Generator) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[peers]'")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(toy_model.generator), str(folder))
    expected = log_probs(adapted)
    torch.testing.assert_close(log_probs(theirs.base_model.model), expected)
    alone = theirs.merge_and_unload()
    torch.testing.assert_close(log_probs(alone), expected, atol=1e-5, rtol=1e-5)


def test_what_peft_writes_is_merged(
    tmp_path: Path, toy_model: Model, toy_folder: Path, adapted: Generator
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[peers]'")
    settings = peft.LoraConfig(
        r=3, lora_alpha=12, target_modules=["mlp_in", "out"], init_lora_weights=False
    )
    torch.manual_seed(3)
    theirs = peft.get_peft_model(adapted, settings)
    theirs.save_pretrained(tmp_path / "peft")
    torch.testing.assert_close(
        log_probs(merged(toy_folder, tmp_path / "peft")),
        log_probs(theirs.base_model.model),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"r": 3}, r"another model or rank: .*lora_A\.weight is \[2, 32\] and must be \[3, 32\]"),
        ({"peft_type": "IA3"}, "peft_type must be LORA"),
        ({"r": 0}, "r a number from 1 on"),
        ({"lora_alpha": "much"}, "lora_alpha must be a number"),
        ({"use_dora": True}, "sets use_dora, and only plain LoRA"),
        ({"bias": "all"}, "sets bias"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    folder: Path, toy_folder: Path, changed: dict[str, object], said: str
) -> None:
    values = json.loads((folder / CONFIG).read_text()) | changed
    (folder / CONFIG).write_text(json.dumps(values))
    with pytest.raises(VilgError, match=said):
        merged(toy_folder, folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("base_model.model.other.lora_A.weight", torch.zeros(2, 32), "of another model: there"),
        ("transformer.norm.weight", torch.zeros(32), "of another model: there is no transf"),
        (f"base_model.model.{MODULE}.lora_B.weight", None, f"has half of {MODULE}"),
        (f"base_model.model.{MODULE}.lora_B.weight", torch.zeros(96, 3), "must be"),
        (f"base_model.model.{MODULE}.lora_B.weight", torch.full((96, 2), torch.nan), "no numbers"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    folder: Path, toy_folder: Path, key: str, value: Tensor | None, said: str
) -> None:
    state = load_file(folder / WEIGHTS) | ({} if value is None else {key: value})
    if value is None:
        del state[key]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(VilgError, match=said):
        merged(toy_folder, folder)


def test_an_adapter_knows_its_base(tmp_path: Path, toy_model: Model, toy_folder: Path) -> None:
    assert toy_model.generator is not None
    config = toy_model.generator.config
    with torch.random.fork_rng():
        other = Generator(replace(config, patterns=tuple(reversed(config.patterns))))
    weights = learnt(other)  # their shapes would fit
    write_adapter(tmp_path / "a", CHOSEN, weights, replace(toy_model, generator=other), "mine")
    with pytest.raises(VilgError, match=r"of another shape: name its base by --model \(mine\)"):
        merged(toy_folder, tmp_path / "a")


def test_adapters_that_are_not_there_are_one_line(
    folder: Path, toy_folder: Path, tmp_path: Path
) -> None:
    for given, said in (
        ("./none", "no adapter at ./none: name a folder"),
        (f"{folder}=much", "weight is a number"),
        (f"{folder}=nan", "weight is a number"),
        (toy_folder, "no adapter at"),
    ):
        with pytest.raises(VilgError, match=said):
            merged(toy_folder, given)
    shutil.copy(folder / CONFIG, tmp_path)
    with pytest.raises(VilgError, match="cannot read"):
        merged(toy_folder, tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(VilgError, match="cannot read"):
        merged(toy_folder, tmp_path)


def test_a_model_is_loaded_with_adapters(folder: Path, toy_folder: Path) -> None:
    plain, with_it = (Vilg.from_pretrained(toy_folder, lora=lora) for lora in ((), folder))
    assert plain.weights_hash != with_it.weights_hash
    half = Vilg.from_pretrained(toy_folder, lora=[f"{folder}=0.5"])
    assert half.weights_hash not in (plain.weights_hash, with_it.weights_hash)
    drawn = [
        vilg.draw(["red apple"], [0], temperature=0.0).image_ids_BN for vilg in (plain, with_it)
    ]
    assert not torch.equal(*drawn)
