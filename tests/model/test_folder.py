"""A model folder: what is saved is what is loaded, and damage is one clear line."""

import hashlib
import json
import os
import shutil
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

from vilg.errors import VilgError
from vilg.model.defaults import SamplingConfig
from vilg.model.folder import (
    FORMAT_VERSION,
    SHIPPED,
    Model,
    ModelError,
    find_model,
    load_model,
    read_config,
    save_model,
    weights_hash,
)
from vilg.model.generator import Generator, GeneratorConfig
from vilg.model.patterns import Pattern
from vilg.text import TextTokenizer
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig

IMAGE_TOKENIZER = VQGANConfig(
    image_size=8,
    channels=4,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    latent_channels=4,
    num_codes=10,
    code_dim=3,
    norm_groups=2,
)
WORDS = TextTokenizer("红苹果", ["re", "red"])
GENERATOR = GeneratorConfig(
    width=8,
    num_heads=2,
    patterns=(Pattern.ROW, Pattern.COLUMN, Pattern.CONVOLUTION, Pattern.DENSE),
    grid_height=4,
    grid_width=4,
    num_codes=10,
    vocabulary_size=len(WORDS),
    max_text=9,
)
SAMPLING = SamplingConfig(temperature=0.9, top_k=7, guidance=2.0)
FILES = ["config.json", "image_tokenizer.safetensors", "model.safetensors", "tokenizer.json"]


def toy(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(ImageTokenizer(IMAGE_TOKENIZER), Generator(GENERATOR), WORDS, SAMPLING)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that no test changes."""
    folder = tmp_path_factory.mktemp("model") / "toy"
    save_model(folder, toy())
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of one's own to damage."""
    shutil.copytree(original, tmp_path / "toy")
    return tmp_path / "toy"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edit_config(folder: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(change(values) or values), encoding="utf-8")


def refusal(folder: Path) -> str:
    """Return the one line that says why a folder cannot be loaded."""
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_loaded_model_is_the_saved_one_in_half_precision(original: Path) -> None:
    assert sorted(contents(original)) == FILES
    model, loaded = toy(), load_model(original)
    assert loaded.generator is not None and loaded.text_tokenizer is not None
    assert loaded.image_tokenizer.config == IMAGE_TOKENIZER
    assert loaded.generator.config == GENERATOR
    assert loaded.sampling == SAMPLING
    assert loaded.text_tokenizer.fingerprint == WORDS.fingerprint
    for ours, theirs, name in (
        (model.image_tokenizer, loaded.image_tokenizer, "image_tokenizer"),
        (model.generator, loaded.generator, "model"),
    ):
        assert isinstance(ours, nn.Module)
        expected, found = ours.state_dict(), theirs.state_dict()
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert found[key].dtype == torch.float32
            assert torch.equal(found[key], value.half().float()), key
        kept = load_file(original / f"{name}.safetensors")
        assert {value.dtype for value in kept.values()} == {torch.float16}
        assert not theirs.training
        assert not any(parameter.requires_grad for parameter in theirs.parameters())
    config = read_config(original)
    assert config.image_tokenizer_fingerprint == loaded.image_tokenizer.fingerprint()
    assert config.image_tokenizer_fingerprint == model.image_tokenizer.fingerprint()
    assert config.format_version == FORMAT_VERSION


def test_saving_what_was_loaded_gives_the_same_bytes(original: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "again", load_model(original))
    assert contents(tmp_path / "again") == contents(original)
    save_model(tmp_path / "once more", load_model(tmp_path / "again"))
    assert contents(tmp_path / "once more") == contents(original)


def test_the_generator_alone_loads_in_the_precision_asked_for(original: Path) -> None:
    loaded, single = load_model(original, dtype=torch.bfloat16), load_model(original)
    assert loaded.generator is not None and single.generator is not None
    for name, value in single.generator.state_dict().items():
        assert torch.equal(loaded.generator.state_dict()[name], value.bfloat16()), name
    for name, value in single.image_tokenizer.state_dict().items():
        assert torch.equal(loaded.image_tokenizer.state_dict()[name], value), name
    shapes = load_model(original, device="meta")
    assert shapes.generator is not None
    assert {value.device.type for value in shapes.generator.parameters()} == {"meta"}
    assert {value.device.type for value in shapes.image_tokenizer.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["emoji-64", "emoji-tokenizer"])
def test_shipped_models_are_written_as_they_are(name: str, tmp_path: Path) -> None:
    folder = find_model(name)
    save_model(tmp_path, load_model(folder))
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_an_image_tokenizer_keeps_the_precision_of_its_files(tmp_path: Path) -> None:
    model = toy()
    model.image_tokenizer.stored_as = torch.float32  # as an imported one
    save_model(tmp_path / "first", model)
    loaded = load_model(tmp_path / "first")
    for key, value in model.image_tokenizer.state_dict().items():
        assert torch.equal(loaded.image_tokenizer.state_dict()[key], value), key
    fingerprint = read_config(tmp_path / "first").image_tokenizer_fingerprint
    assert fingerprint == model.image_tokenizer.fingerprint()
    kept = load_file(tmp_path / "first" / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float16}
    # Lent to another generator, it is the same image tokenizer still.
    save_model(tmp_path / "other", replace(toy(seed=1), image_tokenizer=loaded.image_tokenizer))
    assert read_config(tmp_path / "other").image_tokenizer_fingerprint == fingerprint
    weights = "image_tokenizer.safetensors"
    assert contents(tmp_path / "other")[weights] == contents(tmp_path / "first")[weights]


def test_an_image_tokenizer_alone_is_a_model_too(tmp_path: Path) -> None:
    save_model(tmp_path, Model(toy().image_tokenizer))
    assert sorted(contents(tmp_path)) == ["config.json", "image_tokenizer.safetensors"]
    loaded = load_model(tmp_path)
    assert (loaded.generator, loaded.text_tokenizer) == (None, None)
    assert loaded.sampling == SamplingConfig()


def test_saving_replaces_what_was_there(folder: Path, tmp_path: Path) -> None:
    save_model(folder, toy(seed=1))
    save_model(tmp_path / "new", toy(seed=1))
    assert contents(folder) == contents(tmp_path / "new")


def test_saving_leaves_nothing_of_what_was_there(folder: Path) -> None:
    save_model(folder, Model(toy().image_tokenizer))
    assert sorted(contents(folder)) == ["config.json", "image_tokenizer.safetensors"]


def test_a_save_that_fails_is_said_and_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()  # so that it cannot be written
    with pytest.raises(ModelError, match="cannot write"):
        save_model(tmp_path, toy())
    (tmp_path / "model.safetensors").rmdir()
    assert "cannot read" in refusal(tmp_path)


def test_a_save_that_is_broken_off_anywhere_never_mixes_two_models(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Image tokenizer and words are the same, so no fingerprint would tell.
    newer = replace(toy(), generator=toy(seed=1).generator)
    save_model(tmp_path / "newer", newer)
    whole = (contents(original), contents(tmp_path / "newer"))
    actions = {name: getattr(Path, name) for name in ("rename", "unlink", "replace")}
    finished, broken = False, 0
    while not finished:
        folder = tmp_path / str(broken)
        shutil.copytree(original, folder)
        left = broken

        def interruptible(name: str) -> Callable[..., Any]:
            def action(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                return actions[name](*arguments, **options)

            return action

        with monkeypatch.context() as patches:
            for name in actions:
                patches.setattr(Path, name, interruptible(name))
            try:
                save_model(folder, newer)
                finished = True
            except KeyboardInterrupt:
                broken += 1
        if (folder / "config.json").exists():
            assert contents(folder) in whole, f"broken off at action {broken - 1}"
        else:
            refusal(folder)
    assert broken > 1
    assert contents(folder) == whole[1]


def add_key(values: dict[str, Any]) -> None:
    values["colour"] = "red"


def misspell_a_nested_key(values: dict[str, Any]) -> None:
    values["generator"]["widht"] = values["generator"].pop("width")


def drop_a_key(values: dict[str, Any]) -> None:
    del values["generator"]["num_codes"]


def mistake_a_type(values: dict[str, Any]) -> None:
    values["generator"]["num_heads"] = "two"


def mistake_a_pattern(values: dict[str, Any]) -> None:
    values["generator"]["patterns"][1] = "diagonal"


def raise_the_version(values: dict[str, Any]) -> None:
    # A newer format may have new keys too; its version is what must be said.
    values |= {"format_version": FORMAT_VERSION + 1, "colour": "red"}


def drop_the_version(values: dict[str, Any]) -> None:
    del values["format_version"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_key, "unknown key colour"),
        (misspell_a_nested_key, "unknown key generator.widht"),
        (drop_a_key, "missing key generator.num_codes"),
        (mistake_a_type, "generator.num_heads must be of type int"),
        (mistake_a_pattern, "diagonal"),
        (raise_the_version, f"format version {FORMAT_VERSION + 1}; this vilg reads"),
        (drop_the_version, "format version None"),
        (lambda values: [values], "format version None"),
    ],
)
def test_config_json_is_strict(folder: Path, change: Callable[[Any], Any], said: str) -> None:
    edit_config(folder, change)
    assert said in refusal(folder)
    with pytest.raises(ModelError):
        read_config(folder)


@pytest.mark.parametrize("content", [b"", b'{"format_version": 1,', b"\xff\xfe\x00"])
def test_a_config_that_is_not_json_is_said(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert "config.json is not JSON" in refusal(folder)


def test_a_missing_config_is_said(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "No such file" in refusal(folder)


def test_files_of_two_models_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "other", toy(seed=1))
    shutil.copy(tmp_path / "other" / "image_tokenizer.safetensors", folder)
    assert "files of two models are mixed" in refusal(folder)


def test_another_vocabulary_is_noticed(folder: Path) -> None:
    # Of the same size, so that no shape tells.
    TextTokenizer("红苹果", ["re", "rea"]).save(folder / "tokenizer.json")
    assert "tokenizer.json is another vocabulary" in refusal(folder)


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_missing_or_damaged_vocabulary_is_said(folder: Path, content: bytes | None) -> None:
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(VilgError, match=r"tokenizer\.json"):
        load_model(folder)


@pytest.mark.parametrize("name", ["image_tokenizer.safetensors", "model.safetensors"])
def test_missing_or_damaged_weights_are_said(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for content in (whole[:-10], whole[:100], b"", b"no weights at all"):
        (folder / name).write_bytes(content)
        assert name in refusal(folder)
    (folder / name).unlink()
    assert name in refusal(folder)


def test_weights_of_another_shape_are_said(folder: Path) -> None:
    def widen(values: dict[str, Any]) -> None:
        values["generator"].update(width=16)
        del values["generator_fingerprint"]  # as before it came: the shapes still tell

    edit_config(folder, widen)
    message = refusal(folder)
    assert "model.safetensors does not fit its config.json" in message
    assert "[" in message  # names the weight and both shapes


def drop_a_weight(weights: dict[str, torch.Tensor]) -> None:
    del weights["text_head.bias"]


def add_a_weight(weights: dict[str, torch.Tensor]) -> None:
    weights["text_head.gain"] = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "name"), [(drop_a_weight, "text_head.bias"), (add_a_weight, "text_head.gain")]
)
def test_every_weight_and_no_other_is_needed(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], name: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    assert name in refusal(folder)


def test_the_weights_hash_knows_every_weight(folder: Path) -> None:
    before, digest = weights_hash(folder), hashlib.sha256()
    for name in ("image_tokenizer.safetensors", "model.safetensors"):
        digest.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    assert before == digest.hexdigest()[:16]
    edit_config(folder, lambda values: values["sampling"].update(guidance=1.5))
    assert weights_hash(folder) == before  # settings are not weights
    weights = load_file(folder / "model.safetensors")
    weights["image_head.bias"][0] += 1
    save_file(weights, folder / "model.safetensors")
    assert weights_hash(folder) != before


def test_a_model_is_found_by_folder_or_is_the_shipped_one(folder: Path) -> None:
    assert find_model(folder) == folder
    assert find_model(str(folder)) == folder
    assert find_model(None) == SHIPPED


def test_names_of_nothing_are_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (folder / "config.json").unlink()
    strange = ["", "missing", "./mis/sing", "~/missing", "/mis/sing", "a/b/c", "owner/na me"]
    for name in (folder, *strange, "owner/never-cached"):
        with pytest.raises(ModelError, match="no model at") as caught:
            find_model(name)
        assert str(name) in str(caught.value) and "\n" not in str(caught.value)


def test_other_settings_of_a_model_survive(tmp_path: Path) -> None:
    for i, sampling in enumerate((SamplingConfig(), replace(SAMPLING, top_k=None))):
        save_model(tmp_path / str(i), replace(toy(), sampling=sampling))
        assert load_model(tmp_path / str(i)).sampling == sampling


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: ImageTokenizer(replace(IMAGE_TOKENIZER, quantizer=QuantizerKind.GUMBEL)),
        lambda: ImageTokenizer(replace(IMAGE_TOKENIZER, normalised=False)),
        lambda: ImageTokenizer(
            DVAEConfig(image_size=16, channels=8, channel_multipliers=(1, 2), num_codes=9)
        ),
    ],
    ids=["gumbel", "plain codes", "dvae"],
)
def test_other_kinds_of_image_tokenizer_are_models_too(
    tokenizer: Callable[[], ImageTokenizer], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    saved = tokenizer()
    save_model(tmp_path, Model(saved))
    loaded = load_model(tmp_path).image_tokenizer
    assert type(loaded) is type(saved) and loaded.config == saved.config
    rounded = saved.half().float()
    pixels = torch.rand(2, 3, saved.config.image_size, saved.config.image_size) * 2 - 1
    assert torch.equal(loaded.encode(pixels), rounded.encode(pixels))
    ids = loaded.encode(pixels)
    assert torch.equal(loaded.decode(ids), rounded.decode(ids))


def test_keys_that_came_later_leave_earlier_files_as_they_were(original: Path) -> None:
    """So do the fingerprints, which cover the settings."""
    values = json.loads((original / "config.json").read_text(encoding="utf-8"))
    assert not {"kind", "quantizer", "normalised"} & {*values["image_tokenizer"]}
    assert (
        load_model(SHIPPED).image_tokenizer.fingerprint()
        == read_config(SHIPPED).image_tokenizer_fingerprint
    )


@pytest.mark.parametrize("change", [{"num_heads": 4}, {"patterns": ["dense"] * 4}])
def test_settings_that_no_shape_tells_are_those_it_was_made_with(
    folder: Path, change: dict[str, Any]
) -> None:
    edit_config(folder, lambda values: values["generator"].update(change))
    assert "other settings than it was made with" in refusal(folder)


def test_the_shipped_settings_are_signed_too() -> None:
    config = read_config(SHIPPED)
    assert config.generator is not None and config.generator_fingerprint is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("file", FILES[1:3])
def test_weights_that_are_no_numbers_are_refused(folder: Path, file: str, value: float) -> None:
    weights = load_file(folder / file)
    name = next(name for name in weights if "decoder" in name or "image_head" in name)
    weights[name].view(-1)[0] = value
    save_file(weights, folder / file)
    assert f"{name} has values that are no numbers" in refusal(folder)


def test_weights_of_whole_numbers_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.int() for name, value in weights.items()}, folder / "model.safetensors")
    assert "is in I32, and must be in fp16" in refusal(folder)


@pytest.mark.parametrize("value", [7e4, float("nan")])
def test_a_weight_that_cannot_be_stored_is_said_before_anything_is_written(
    tmp_path: Path, value: float
) -> None:
    model = toy()
    assert model.generator is not None
    with torch.no_grad():
        model.generator.image_head.bias[0] = value
    with pytest.raises(
        ModelError, match=r"image_head\.bias .* reaches .* anew with a lower optim\.peak_lr"
    ):
        save_model(tmp_path / "new", model)
    assert not (tmp_path / "new").exists()


def test_brackets_without_end_are_said(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    assert "config.json is not JSON" in refusal(folder)
    (folder / "tokenizer.json").write_text("[" * 100_000)
    with pytest.raises(VilgError, match="is not a text tokenizer"):
        TextTokenizer.from_file(folder / "tokenizer.json")


def test_a_number_that_no_tensor_has_is_said(folder: Path) -> None:
    def huge(values: dict[str, Any]) -> None:
        values["image_tokenizer"]["latent_channels"] = 10**20

    edit_config(folder, huge)
    assert "latent_channels must be a number from -2^63 to 2^63" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("image_tokenizer", "num_res_blocks", 10**9),
        ("image_tokenizer", "image_size", 2**30),
        ("image_tokenizer", "channel_multipliers", [10**9]),
        ("generator", "width", 2**40),
        ("generator", "grid_height", 10**9),
        ("generator", "max_text", 10**9),
        ("generator", "patterns", ["row"] * 10_000),
    ],
)
def test_a_network_without_end_is_not_built(
    folder: Path, part: str, key: str, value: object
) -> None:
    edit_config(folder, lambda values: values[part].update({key: value}))
    assert f"{key} must be at most" in refusal(folder)


def test_shipped_models_have_names() -> None:
    assert find_model("emoji-64") == SHIPPED
    assert find_model("emoji-tokenizer").name == "emoji-tokenizer"
    with pytest.raises(ModelError, match="shipped: emoji-64, emoji-tokenizer"):
        find_model("emoji")


def test_a_hub_whose_address_is_none_is_said_and_shipped_models_load(tmp_path: Path) -> None:
    settings = {**os.environ, "HF_ENDPOINT": "http://[bad"}
    command = [sys.executable, "-m", "vilg", "generate", "red, flat style", "-o", "a.png"]
    for more, status, said in (
        (["--model", "owner/absent"], 2, "the hub says: Invalid IPv6 URL (HF_ENDPOINT"),
        (["--best-of", "1"], 0, ""),
    ):
        done = subprocess.run(
            command + more, env=settings, cwd=tmp_path, text=True, capture_output=True, check=False
        )
        assert done.returncode == status and said in done.stderr
        assert done.stderr.count("\n") == bool(said)


def test_a_hub_that_cannot_be_asked_is_said_and_its_cache_is_used(
    folder: Path, tmp_path: Path
) -> None:
    # The hub's library reads its settings as it is imported.
    settings = {**os.environ, "HF_ENDPOINT": "hf-mirror.com", "HF_HUB_CACHE": str(tmp_path / "hub")}
    settings.pop("HF_HUB_OFFLINE", None)
    code = """
from vilg.errors import VilgError
from vilg.model.folder import find_model
for name in ("owner/absent", "owner/toy"):
    try:
        print(find_model(name))
    except VilgError as error:
        print(error)
"""
    cached = tmp_path / "hub" / "models--owner--toy"
    shutil.copytree(folder, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    made = subprocess.run(
        [sys.executable, "-c", code], env=settings, text=True, stdout=-1, check=True
    )
    refused, found = made.stdout.splitlines()
    assert "no model at owner/absent" in refused and "the hub says: Request URL" in refused
    assert found == str(cached / "snapshots" / ("a" * 40))
