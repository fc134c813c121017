"""Importers: published weights give the published tokens and pixels; whatever else is one clear line."""

import argparse
import copy
import json
import pickle
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from tests.tokenizer import published
from tests.tokenizer.published import (
    Settings,
    State,
    diffusers_settings,
    llamagen_settings,
    taming_settings,
)
from vilg.model.folder import Model, load_model, read_config, save_model
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.importers import (
    FORMATS,
    Imported,
    ImporterError,
    Origin,
    import_tokenizer,
    origin_of,
)
from vilg.tokenizer.importers.names import (
    DIFFUSERS,
    DIFFUSERS_OLD,
    LLAMAGEN,
    TAMING,
    TAMING_GUMBEL,
    Names,
    rename,
)
from vilg.tokenizer.quantizers import QuantizerKind, VectorQuantizer
from vilg.tokenizer.vqgan import VQGANConfig

NO_PEERS = "diffusers is not installed: pip install -e '.[peers]'"

SHAPES = {
    Origin.TAMING: published.taming_shapes,
    Origin.LLAMAGEN: published.llamagen_shapes,
    Origin.DIFFUSERS: published.diffusers_shapes,
}
ENCODE = {
    Origin.TAMING: published.taming_encode,
    Origin.LLAMAGEN: published.llamagen_encode,
    Origin.DIFFUSERS: published.diffusers_encode,
}
DECODE = {
    Origin.TAMING: published.taming_decode,
    Origin.LLAMAGEN: published.llamagen_decode,
    Origin.DIFFUSERS: published.diffusers_decode,
}


SMALL: dict[str, tuple[Origin, Settings]] = {
    "taming": (Origin.TAMING, taming_settings()),
    "taming without attention": (
        Origin.TAMING,
        taming_settings(embed_dim=3, z_channels=3, ch_mult=[1, 2], attn_resolutions=[]),
    ),
    "taming at two levels": (
        Origin.TAMING,
        taming_settings(ch_mult=[2, 1], num_res_blocks=2, attn_resolutions=[16, 32]),
    ),
    "taming gumbel": (Origin.TAMING, taming_settings("GumbelVQ", embed_dim=16)),
    "llamagen": (Origin.LLAMAGEN, llamagen_settings()),
    "llamagen with raw codes": (Origin.LLAMAGEN, llamagen_settings(codebook_l2_norm=False)),
    "diffusers": (Origin.DIFFUSERS, diffusers_settings()),
    "diffusers without attention": (
        Origin.DIFFUSERS,
        diffusers_settings(
            mid_block_add_attention=False,
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
        ),
    ),
    "diffusers with defaults": (
        Origin.DIFFUSERS,
        {
            key: value
            for key, value in diffusers_settings(
                down_block_types=["AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
                up_block_types=["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
                block_out_channels=[32, 64],
                latent_channels=3,
            ).items()
            if key not in ("act_fn", "norm_num_groups", "vq_embed_dim", "sample_size")
        },
    ),
}


@dataclass(frozen=True)
class Case:
    """A published network of small, random weights."""

    origin: Origin
    settings: Settings
    state: State

    def imported(self, image_size: int | None = None) -> Imported:
        return FORMATS[self.origin](self.state, self.settings, image_size)

    def scores(self, pixels: Tensor) -> Tensor:
        """Return the published network's score of every code, in double precision."""
        return ENCODE[self.origin](self.exact, self.settings, pixels.double())

    def decode(self, ids_BHW: Tensor) -> Tensor:
        """Return the published network's pixels, not clamped, in double precision."""
        return DECODE[self.origin](self.exact, self.settings, ids_BHW)

    @property
    def exact(self) -> State:
        return {name: value.double() for name, value in self.state.items()}


def case(name: str) -> Case:
    origin, settings = SMALL[name]
    return Case(origin, settings, published.random_state(SHAPES[origin](settings)))


def pictures(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, side // 4, side // 4, generator=generator) * 2 - 1
    return coarse.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


def reload(imported: Imported, folder: Path) -> ImageTokenizer:
    """Take the way of `vilg import` to the disk and that of every verb back."""
    save_model(folder, Model(imported.build()))
    return load_model(folder).image_tokenizer


def check_equal(
    vqgan: ImageTokenizer, scores_BKHW: Tensor, decode: Callable[[Tensor], Tensor]
) -> None:
    """Compare tokens and pixels with those of a reference.

    Args:
        scores_BKHW: the reference's score of every code; the token is the highest.
        decode: the reference's pixels of tokens, not clamped.
    """
    side = vqgan.config.image_size
    best_B2HW = scores_BKHW.topk(2, dim=1).values
    clear_BHW = best_B2HW[:, 0] - best_B2HW[:, 1] > 1e-4
    expected_BHW = scores_BKHW.argmax(dim=1)
    ids_BHW = vqgan.encode(pictures(side))
    assert ids_BHW.shape == expected_BHW.shape
    assert torch.equal(ids_BHW[clear_BHW], expected_BHW[clear_BHW])
    assert clear_BHW.float().mean() > 0.9 and len(expected_BHW.unique()) > 4
    raw_B3YX = decode(expected_BHW)
    codes_BDHW = vqgan.quantizer.lookup(expected_BHW)
    assert raw_B3YX.std() > 0.1
    assert (vqgan.decode_codes(codes_BDHW) - raw_B3YX).abs().max() < 1e-5
    assert (vqgan.decode(expected_BHW) - raw_B3YX.clamp(-1, 1)).abs().max() < 1e-5


# Equal to the published networks


@pytest.mark.parametrize("name", SMALL)
def test_tokens_and_pixels_are_the_published_ones(name: str, tmp_path: Path) -> None:
    network = case(name)
    vqgan = reload(network.imported(image_size=32), tmp_path)
    check_equal(vqgan, network.scores(pictures(32)), network.decode)


@pytest.mark.parametrize("name", ["taming", "llamagen", "diffusers"])
def test_another_image_size_keeps_attention_at_its_levels(name: str, tmp_path: Path) -> None:
    network = case(name)
    imported = network.imported(image_size=64)
    assert imported.config.grid_size == 16
    check_equal(reload(imported, tmp_path), network.scores(pictures(64)), network.decode)


@pytest.mark.parametrize(
    "name", ["diffusers", "diffusers without attention", "diffusers with defaults"]
)
def test_the_real_class_of_diffusers_agrees(name: str, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason=NO_PEERS)
    network = case(name)
    model = diffusers.VQModel.from_config(network.settings).eval()
    model.load_state_dict(network.state)
    model.save_pretrained(tmp_path / "theirs")
    imported = import_tokenizer(str(tmp_path / "theirs"), image_size=32)
    vqgan = reload(imported, tmp_path / "ours")
    model.double()
    codes_KD = model.quantize.embedding.weight

    def decode(ids_BHW: Tensor) -> Tensor:
        codes_BDHW = codes_KD[ids_BHW].movedim(-1, 1)
        return model.decode(codes_BDHW, force_not_quantize=True).sample

    with torch.no_grad():
        z_BDHW = model.encode(pictures(32).double()).latents
        check_equal(vqgan, published.nearness(z_BDHW, codes_KD), decode)


def test_the_real_class_of_diffusers_has_these_names() -> None:
    diffusers = pytest.importorskip("diffusers", reason=NO_PEERS)
    for settings in (
        published.DIFFUSERS_LDM_CELEBAHQ,
        published.DIFFUSERS_VQ_DIFFUSION,
        published.DIFFUSERS_AMUSED,
    ):
        with torch.device("meta"):
            state = diffusers.VQModel.from_config(settings).state_dict()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        assert shapes == published.diffusers_shapes(settings)


# The published configurations at full size. M weights: as the README of LlamaGen says; and the 244.2 MiB
# of vq-diffusion-ithq's vqvae in single precision (PaddleNLP's list of its files).

F8 = VQGANConfig(quantizer=QuantizerKind.GUMBEL)
F16 = VQGANConfig(
    channel_multipliers=(1, 1, 2, 2, 4),
    attention_resolutions=(16,),
    num_codes=16384,
    normalised=False,
)
FULL_SIZE = {
    "taming gumbel f8 8192": (Origin.TAMING, published.TAMING_GUMBEL_F8_8192, F8, None),
    "taming f16 16384": (Origin.TAMING, published.TAMING_F16_16384, F16, None),
    "llamagen VQ-16": (
        Origin.LLAMAGEN,
        published.LLAMAGEN_VQ_16,
        replace(F16, code_dim=8, normalised=True),
        72,
    ),
    "llamagen VQ-8": (
        Origin.LLAMAGEN,
        published.LLAMAGEN_VQ_8,
        VQGANConfig(channel_multipliers=(1, 2, 2, 4), num_codes=16384, code_dim=8),
        70,
    ),
    "diffusers ldm-celebahq": (
        Origin.DIFFUSERS,
        published.DIFFUSERS_LDM_CELEBAHQ,
        VQGANConfig(
            channel_multipliers=(1, 2, 4),
            attention_resolutions=(),
            latent_channels=3,
            code_dim=3,
            normalised=False,
        ),
        None,
    ),
    "diffusers vq-diffusion": (
        Origin.DIFFUSERS,
        published.DIFFUSERS_VQ_DIFFUSION,
        VQGANConfig(
            channels=64,
            channel_multipliers=(1, 2, 4, 8),
            num_codes=4096,
            code_dim=128,
            normalised=False,
        ),
        64,
    ),
    "diffusers amused": (
        Origin.DIFFUSERS,
        published.DIFFUSERS_AMUSED,
        VQGANConfig(
            channel_multipliers=(1, 2, 2, 4, 6),
            attention_resolutions=(),
            latent_channels=64,
            code_dim=64,
            normalised=False,
            middle_attention=False,
        ),
        None,
    ),
}


def meta_state(origin: Origin, settings: Settings) -> State:
    shapes = SHAPES[origin](settings)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_published_configurations_have_exactly_these_weights(name: str) -> None:
    origin, settings, expected, millions = FULL_SIZE[name]
    state = meta_state(origin, settings)
    assert origin_of(state) is origin
    imported = FORMATS[origin](state, settings, 256)
    assert imported.config == expected
    assert imported.left_out == ()
    with torch.device("meta"):
        ours = ImageTokenizer(expected).state_dict()
    assert {name: value.shape for name, value in imported.state.items()} == {
        name: value.shape for name, value in ours.items()
    }
    num_weights = sum(value.numel() for value in state.values())
    assert num_weights == sum(value.numel() for value in ours.values())
    assert millions is None or round(num_weights / 1e6) == millions


@pytest.mark.parametrize("name", ["llamagen VQ-16", "llamagen VQ-8"])
def test_llamagen_needs_no_settings(name: str) -> None:
    origin, settings, expected, _ = FULL_SIZE[name]
    state = meta_state(origin, settings) | {"quantize.codebook_used": torch.zeros(65536)}
    imported = FORMATS[origin](state, None, None)
    assert imported.config == expected
    assert imported.left_out == ("quantize.codebook_used",)


def test_the_settings_decide_the_image_size() -> None:
    for origin, settings, side in (
        (Origin.TAMING, published.TAMING_GUMBEL_F8_8192, 256),
        (Origin.LLAMAGEN, published.LLAMAGEN_VQ_16, 256),
        (Origin.DIFFUSERS, published.DIFFUSERS_LDM_CELEBAHQ, 256),
    ):
        imported = FORMATS[origin](meta_state(origin, settings), settings, None)
        assert imported.config.image_size == side


@pytest.mark.parametrize("name", ["diffusers vq-diffusion", "diffusers amused"])
def test_a_size_that_nobody_set_is_asked_for(name: str) -> None:
    origin, settings, _, _ = FULL_SIZE[name]
    state = meta_state(origin, settings)
    unsaid = {key: value for key, value in settings.items() if key != "sample_size"}
    for found in (settings, unsaid):
        assert "--image-size" in refusal(lambda found=found: FORMATS[origin](state, found, None))
        assert FORMATS[origin](state, found, 512).config.image_size == 512


# Round trips

LAYOUTS: dict[str, tuple[Names, str]] = {
    "taming": (TAMING, "taming at two levels"),
    "taming gumbel": (TAMING_GUMBEL, "taming gumbel"),
    "llamagen": (LLAMAGEN, "llamagen"),
    "diffusers": (DIFFUSERS, "diffusers"),
    "diffusers, old": (DIFFUSERS_OLD, "diffusers"),
}


def exported(vqgan: ImageTokenizer, names: Names) -> State:
    """Return the weights under their names."""
    state = {}
    for ours, value in vqgan.state_dict().items():
        theirs = names.theirs(ours, len(vqgan.config.channel_multipliers))
        state.update(zip(theirs, value.chunk(len(theirs)), strict=True))
    return state


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_weights_come_back_from_their_names(layout: str) -> None:
    names, name = LAYOUTS[layout]
    network = case(name)
    torch.manual_seed(2)
    vqgan = ImageTokenizer(network.imported().config)
    state = exported(vqgan, names)
    theirs = network.state
    if names is DIFFUSERS_OLD:
        theirs = published.old_names_of_diffusers(theirs)
    assert state.keys() == theirs.keys()
    back = rename(state, vqgan.config, names)
    assert back.config == vqgan.config
    # Codes on the unit sphere are put there again.
    for ours, value in vqgan.state_dict().items():
        assert torch.allclose(back.state[ours], value, rtol=0, atol=1e-7), ours
    assert back.state.keys() == vqgan.state_dict().keys()


def test_older_names_of_diffusers_are_the_same_network() -> None:
    network = case("diffusers")
    old = published.old_names_of_diffusers(network.state)
    assert old.keys() != network.state.keys()
    again = replace(network, state=old).imported()
    for name, value in network.imported().state.items():
        assert torch.equal(again.state[name], value), name


def test_normalised_codes_are_stored_on_the_unit_sphere() -> None:
    vqgan = case("llamagen").imported().build()
    assert isinstance(vqgan.quantizer, VectorQuantizer)
    lengths_K = vqgan.quantizer.codebook_KD.square().sum(dim=-1).sqrt()
    assert torch.allclose(lengths_K, torch.ones(40))
    raw = case("llamagen with raw codes")
    kept = raw.imported().state["quantizer.codebook_KD"]
    assert torch.equal(kept, raw.state["quantize.embedding.weight"])


def test_an_imported_tokenizer_is_kept_unrounded_however_often_it_is_saved(tmp_path: Path) -> None:
    vqgan = case("taming").imported().build()
    assert not vqgan.training and not any(weight.requires_grad for weight in vqgan.parameters())
    once = reload(case("taming").imported(), tmp_path / "once")
    save_model(tmp_path / "twice", Model(once))
    for name, value in vqgan.state_dict().items():
        assert torch.equal(once.state_dict()[name], value), name
    assert read_config(tmp_path / "once").image_tokenizer_fingerprint == vqgan.fingerprint()
    for name in ("config.json", "image_tokenizer.safetensors"):
        assert (tmp_path / "twice" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


def test_weights_in_half_precision_are_computed_with_in_single() -> None:
    network = case("taming")
    halves = {name: value.half() for name, value in network.state.items()}
    imported = replace(network, state=halves).imported()
    assert {value.dtype for value in imported.state.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "of_training"),
    [
        ("taming", "loss.perceptual_loss.lin0.model.1.weight"),
        ("taming", "loss.discriminator.main.0.weight"),
        ("taming", "colorize"),
        ("taming", "quantize.used"),
        ("taming", "quantize.embedding.cluster_size"),
        ("taming", "quantize.embedding.embed_avg"),
        ("taming", "model_ema.num_updates"),
        ("taming gumbel", "loss.discriminator.main.0.weight"),
        ("llamagen", "quantize.codebook_used"),
    ],
)
def test_what_only_training_needs_is_left_out_and_listed(name: str, of_training: str) -> None:
    network = case(name)
    extended = replace(network, state=network.state | {of_training: torch.zeros(3)})
    imported = extended.imported()
    assert imported.left_out == (of_training,)
    for ours, value in network.imported().state.items():
        assert torch.equal(imported.state[ours], value)


# Files


def write_settings(path: Path, settings: Settings) -> Path:
    path.write_text(json.dumps(settings) if path.suffix == ".json" else yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("holder", [None, "state_dict", "model", "ema", "safetensors"])
@pytest.mark.parametrize("settings", ["model.yaml", "model.json"])
def test_weights_lie_in_any_of_the_usual_files(
    holder: str | None, settings: str, tmp_path: Path
) -> None:
    network = case("taming")
    path = tmp_path / "last.ckpt"
    if holder == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(network.state, path)
    else:
        torch.save({holder: network.state, "step": 3} if holder else network.state, path)
    file = write_settings(tmp_path / settings, network.settings)
    imported = import_tokenizer(str(path), None, file)
    assert imported.config == network.imported().config
    for name, value in network.imported().state.items():
        assert torch.equal(imported.state[name], value)


def test_averaged_weights_go_before_the_last_ones(tmp_path: Path) -> None:
    network = case("llamagen")
    zeros = {name: torch.zeros_like(value) for name, value in network.state.items()}
    torch.save({"model": zeros, "ema": network.state}, tmp_path / "vq.pt")
    file = write_settings(tmp_path / "args.json", network.settings)
    imported = import_tokenizer(str(tmp_path / "vq.pt"), Origin.LLAMAGEN, file)
    assert imported.state["encoder.conv_in.weight"].any()


def test_the_parameters_alone_are_settings_too() -> None:
    for name in ("taming", "taming gumbel"):
        network = case(name)
        params = network.settings["model"]["params"]
        assert replace(network, settings=params).imported().config == network.imported().config


def write_diffusers(folder: Path) -> Case:
    network = case("diffusers")
    folder.mkdir()
    save_file(network.state, folder / "diffusion_pytorch_model.safetensors")
    write_settings(folder / "config.json", network.settings)
    return network


def test_a_folder_of_diffusers_has_weights_and_settings(tmp_path: Path) -> None:
    network = write_diffusers(tmp_path / "vqvae")
    assert import_tokenizer(str(tmp_path / "vqvae")).config == network.imported().config
    other = write_settings(tmp_path / "other.json", diffusers_settings(sample_size=128))
    assert import_tokenizer(str(tmp_path / "vqvae"), None, other).config.image_size == 128


@pytest.mark.parametrize("inner", ["", "vqvae"])
def test_a_hub_id_may_name_a_folder(
    inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache stands for the hub."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    snapshot = repository / "snapshots" / commit
    if inner:
        snapshot.mkdir()
    write_diffusers(snapshot / inner if inner else snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = f"owner/name/{inner}" if inner else "owner/name"
    assert import_tokenizer(source).config == case("diffusers").imported().config


# Refusals


def refusal(call: Callable[[], object]) -> str:
    """Return the one line that says why something cannot be imported."""
    with pytest.raises(ImporterError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["taming", "taming gumbel", "llamagen", "diffusers"])
def test_every_weight_and_no_other_is_needed(name: str) -> None:
    network = case(name)
    for key in ("encoder.conv_in.bias", "quant_conv.weight", sorted(network.state)[7]):
        state = {other: value for other, value in network.state.items() if other != key}
        message = refusal(replace(network, state=state).imported)
        assert f"1 missing: {key}" in message and "unexpected" not in message
    extended = network.state | {"decoder.extra.weight": torch.zeros(1)}
    message = refusal(replace(network, state=extended).imported)
    assert "1 unexpected: decoder.extra.weight" in message and "missing" not in message
    key = "decoder.conv_out.weight"
    cut = network.state | {key: network.state[key][:2]}
    message = refusal(replace(network, state=cut).imported)
    shape = network.state[key].shape
    assert f"1 of another shape: {key} (2x{shape[1]}x3x3, not 3x{shape[1]}x3x3)" in message
    scalar = network.state | {"quant_conv.weight": torch.tensor(1.0)}
    assert "quant_conv.weight (a number" in refusal(replace(network, state=scalar).imported)


def test_many_faults_are_counted_and_the_first_few_named() -> None:
    network = case("taming")
    state = {name: value for name, value in network.state.items() if not name.startswith("decoder")}
    message = refusal(replace(network, state=state).imported)
    missing = len(network.state) - len(state)
    assert f"{missing} missing: decoder." in message
    assert f" and {missing - 8} more" in message
    assert message.count("decoder.") == 8


@pytest.mark.parametrize("name", ["taming", "llamagen", "diffusers"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_half_a_file_is_known_and_its_missing_half_listed(
    name: str, side: str, tmp_path: Path
) -> None:
    network = case(name)
    half = {key: value for key, value in network.state.items() if key.startswith(side)}
    save_file(half, tmp_path / "half.safetensors")
    settings = write_settings(tmp_path / "settings.json", network.settings)
    message = refusal(lambda: import_tokenizer(str(tmp_path / "half.safetensors"), None, settings))
    assert f"{len(network.state) - len(half)} missing: " in message
    assert "check that weights and settings belong together and that the file is whole" in message


def test_settings_of_another_network_are_noticed() -> None:
    network = case("taming")
    for changes in (
        {"ch": 64},
        {"ch_mult": [1, 1, 2, 2]},
        {"num_res_blocks": 2},
        {"attn_resolutions": []},
        {"z_channels": 8},
    ):
        other = replace(network, settings=taming_settings(**changes))
        assert "settings" in refusal(other.imported)
    other = replace(network, settings=taming_settings("GumbelVQ", embed_dim=16))
    assert "quantize.proj.weight" in refusal(other.imported)


def test_weights_that_are_no_numbers_are_refused() -> None:
    network = case("taming")
    network.state["decoder.conv_out.bias"][1] = float("nan")
    assert "decoder.conv_out.bias" in refusal(lambda: network.imported().build())


REFUSED: dict[str, tuple[str, Callable[[Settings], object], str]] = {
    "double_z": ("taming", lambda s: network_of(s).update(double_z=True), "double_z"),
    "double_z by default": ("taming", lambda s: network_of(s).pop("double_z"), "double_z"),
    "no convolution between levels": (
        "taming",
        lambda s: network_of(s).update(resamp_with_conv=False),
        "resamp_with_conv",
    ),
    "out_ch": ("taming", lambda s: network_of(s).update(out_ch=182), "out_ch"),
    "in_channels": ("taming", lambda s: network_of(s).update(in_channels=1), "in_channels"),
    "tanh": ("taming", lambda s: network_of(s).update(tanh_out=True), "tanh_out"),
    "pre-end": ("taming", lambda s: network_of(s).update(give_pre_end=True), "give_pre_end"),
    "linear attention": ("taming", lambda s: network_of(s).update(attn_type="none"), "attn_type"),
    "unknown setting": ("taming", lambda s: network_of(s).update(use_magic=True), "use_magic"),
    "remapped": ("taming", lambda s: s["model"]["params"].update(remap="used.npy"), "remap"),
    "no embed_dim": ("taming", lambda s: s["model"]["params"].pop("embed_dim"), "embed_dim"),
    "embed_dim as text": (
        "taming",
        lambda s: s["model"]["params"].update(embed_dim="6"),
        "embed_dim",
    ),
    "embed_dim of another width than the scores read": (
        "taming gumbel",
        lambda s: s["model"]["params"].update(embed_dim=6),
        "embed_dim",
    ),
    "another class": (
        "taming",
        lambda s: s["model"].update(target="taming.models.cond_transformer.Net2NetTransformer"),
        "Net2NetTransformer",
    ),
    "no ddconfig": ("taming", lambda s: s["model"]["params"].pop("ddconfig"), "ddconfig"),
    "no model": ("taming", lambda s: s.update(model=3), "ddconfig"),
    "groups that do not divide": ("taming", lambda s: network_of(s).update(ch=40), "norm_groups"),
    "two shapes": (
        "llamagen",
        lambda s: s.update(decoder_ch_mult=[1, 1, 2]),
        "decoder_ch_mult",
    ),
    "norm_type": ("diffusers", lambda s: s.update(norm_type="spatial"), "norm_type"),
    "act_fn": ("diffusers", lambda s: s.update(act_fn="gelu"), "act_fn"),
    "out_channels": ("diffusers", lambda s: s.update(out_channels=4), "out_channels"),
    "class": ("diffusers", lambda s: s.update(_class_name="AutoencoderKL"), "AutoencoderKL"),
    "blocks": (
        "diffusers",
        lambda s: s.update(down_block_types=["SkipDownBlock2D"] * 3),
        "down_block_types",
    ),
    "attention on one side": (
        "diffusers",
        lambda s: s.update(up_block_types=["UpDecoderBlock2D"] * 3),
        "up_block_types",
    ),
    "widths": (
        "diffusers",
        lambda s: s.update(block_out_channels=[32, 48, 64]),
        "block_out_channels",
    ),
    "too few widths": (
        "diffusers",
        lambda s: s.update(block_out_channels=[32, 64]),
        "block_out_channels",
    ),
    "no widths": (
        "diffusers",
        lambda s: s.update(block_out_channels=[], down_block_types=[], up_block_types=[]),
        "channel_multipliers",
    ),
    "no groups": ("diffusers", lambda s: s.update(norm_num_groups=0), "settings"),
    "unknown setting of diffusers": ("diffusers", lambda s: s.update(use_magic=1), "use_magic"),
}


def network_of(settings: Settings) -> Settings:
    network = settings["model"]["params"]["ddconfig"]
    assert isinstance(network, dict)
    return network


@pytest.mark.parametrize(("name", "change", "said"), REFUSED.values(), ids=list(REFUSED))
def test_settings_that_cannot_be_computed_here_are_named(
    name: str, change: Callable[[Settings], object], said: str
) -> None:
    network = case(name)
    settings = copy.deepcopy(network.settings)
    change(settings)
    assert said in refusal(replace(network, settings=settings).imported)


def test_dropout_makes_no_difference() -> None:
    network = replace(case("taming"), settings=taming_settings(dropout=0.1))
    assert network.imported().config == case("taming").imported().config


@pytest.mark.parametrize("size", [0, -32, 33, 2])
def test_image_sizes_that_do_not_halve_are_refused(size: int) -> None:
    for name in ("taming", "llamagen", "diffusers"):
        assert "image_size" in refusal(lambda name=name: case(name).imported(size))


@pytest.mark.parametrize("name", ["taming", "diffusers"])
def test_missing_settings_are_asked_for(name: str, tmp_path: Path) -> None:
    save_file(case(name).state, tmp_path / "last.safetensors")
    message = refusal(lambda: import_tokenizer(str(tmp_path / "last.safetensors")))
    assert "--config" in message and "last.safetensors" in message


def test_llamagen_of_other_depth_asks_for_settings() -> None:
    assert "--config" in refusal(replace(case("llamagen"), settings=None).imported)


@pytest.mark.parametrize("origin", Origin)
def test_weights_of_another_origin_are_called_what_they_are(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(case(origin.value).state, path)
    for other in set(Origin) - {origin}:
        message = refusal(lambda other=other: import_tokenizer(str(path), other))
        assert f"those of {origin}" in message and f"not those of {other}" in message


def test_other_weights_are_nobodys(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "layer.weight" in refusal(lambda: import_tokenizer(str(tmp_path / "other.safetensors")))
    both = case("taming").state | case("llamagen").state
    assert origin_of(both) is None and origin_of({}) is None


def import_file(path: Path) -> Callable[[], object]:
    file = write_settings(path.parent / "model.yaml", taming_settings())
    return lambda: import_tokenizer(str(path), None, file)


@pytest.mark.parametrize("name", ["last.safetensors", "last.ckpt", "old.ckpt"])
def test_truncated_files_are_one_line_that_names_them(name: str, tmp_path: Path) -> None:
    path, state = tmp_path / name, case("taming").state
    if name == "last.safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=name != "old.ckpt")
    whole = path.read_bytes()
    for size in (0, 1, 7, 10, 100, 300, 3000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert str(path) in refusal(import_file(path))


@pytest.mark.parametrize(
    "content",
    [b"no weights", b"\x80\x04\x95", b"PK\x03\x04 and more", b"\x00" * 1000, b"\x80\x02}q\x00."],
)
def test_files_of_something_else_are_one_line_that_names_them(
    content: bytes, tmp_path: Path
) -> None:
    for name in ("last.ckpt", "last.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert name in refusal(import_file(tmp_path / name))


@pytest.mark.parametrize(
    "content",
    [{}, [torch.zeros(1)], {"state_dict": {}}, {"state_dict": {"epoch": 3}}, torch.zeros(3), 7],
)
def test_checkpoints_without_weights_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    assert "holds no weights" in refusal(import_file(tmp_path / "last.ckpt"))


class Bomb:
    """Something that runs when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_checkpoint_is_not_run(plain: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "last.ckpt", tmp_path / "it ran"
    content = {"state_dict": case("taming").state, "callbacks": Bomb(mark)}
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    assert str(path) in refusal(import_file(path))
    assert not mark.exists()
    with path.open("rb") as file:  # the bomb is a real one
        torch.load(file, weights_only=False) if not plain else pickle.load(file)
    assert mark.exists()


def test_a_refused_checkpoint_is_not_warned_of_besides(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": 1}, protocol=4))
    call = import_file(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refusal(call)
    assert caught == []


def test_a_checkpoint_of_lightning_is_refused_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As taming's files are: the state of a callback under its class."""
    names = ["pytorch_lightning", "callbacks", "model_checkpoint"]
    for i in range(len(names)):
        module = types.ModuleType(".".join(names[: i + 1]))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    callback = type("ModelCheckpoint", (), {"__module__": ".".join(names)})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    content = {"state_dict": case("taming").state, "callbacks": {callback: {"best": 1.0}}}
    torch.save(content, tmp_path / "last.ckpt")
    for name in list(sys.modules):
        if name.startswith("pytorch_lightning"):
            monkeypatch.delitem(sys.modules, name)
    message = refusal(import_file(tmp_path / "last.ckpt"))
    assert "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint" in message
    assert "safetensors" in message


def test_the_way_out_works(tmp_path: Path) -> None:
    network = case("taming")
    path = tmp_path / "it's the last.ckpt"
    torch.save({"state_dict": network.state, "args": argparse.Namespace(lr=1.0)}, path)
    message = refusal(import_file(path))
    assert "argparse.Namespace" in message
    command = message[message.index("python -c") : message.index(" and import the result")]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    file = write_settings(tmp_path / "model.yaml", network.settings)
    imported = import_tokenizer(str(path.with_suffix(".safetensors")), None, file)
    assert imported.config == network.imported().config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model: [1, 2", "neither JSON nor YAML"),
        (b"model: !!python/object/apply:os.getcwd []", "neither JSON nor YAML"),
        (b"\xff\xfe\xfa", "neither JSON nor YAML"),
        (b"just words", "has no keys"),
        (b"", "has no keys"),
        (b"model:\n  params: 3\n", "ddconfig"),
    ],
)
def test_settings_that_cannot_be_read_are_one_line(
    content: bytes, said: str, tmp_path: Path
) -> None:
    save_file(case("taming").state, tmp_path / "last.safetensors")
    (tmp_path / "model.yaml").write_bytes(content)
    assert said in refusal(
        lambda: import_tokenizer(str(tmp_path / "last.safetensors"), None, tmp_path / "model.yaml")
    )
    (tmp_path / "model.json").write_bytes(b"{")
    assert "neither JSON nor YAML" in refusal(
        lambda: import_tokenizer(str(tmp_path / "last.safetensors"), None, tmp_path / "model.json")
    )


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for source in ("missing.ckpt", "nowhere/last.ckpt", "./owner/name", "/owner/name", "owner/"):
        message = refusal(lambda source=source: import_tokenizer(source))
        assert f"no file or folder at {source}" in message and "the hub says" not in message
    for source in ("nobody/nothing", "nobody/nothing/vqvae", "no such/place"):
        message = refusal(lambda source=source: import_tokenizer(source))
        assert source in message and "hub" in message
    assert "has no diffusion_pytorch_model.safetensors" in refusal(
        lambda: import_tokenizer(str(tmp_path))
    )
    folder = tmp_path / "vqvae"
    write_diffusers(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(lambda: import_tokenizer(str(folder)))
    save_file(case("taming").state, tmp_path / "last.safetensors")
    assert "nowhere.yaml" in refusal(
        lambda: import_tokenizer(
            str(tmp_path / "last.safetensors"), None, tmp_path / "nowhere.yaml"
        )
    )
