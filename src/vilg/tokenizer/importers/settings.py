"""Published settings as ours, and refusal of those that a VQGAN of ours has no place for.

Settings are facts from the public sources (`names.py` lists them) and from the configuration files that
were published with the weights; defaults are those of the published code.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from vilg.config import from_dict
from vilg.errors import SettingError
from vilg.tokenizer.importers.files import ImporterError
from vilg.tokenizer.importers.names import (
    DIFFUSERS,
    DIFFUSERS_OLD,
    LLAMAGEN,
    TAMING,
    TAMING_GUMBEL,
    Imported,
    rename,
)
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig

Settings = TypeVar("Settings")


def _read(cls: type[Settings], values: Any, where: str = "") -> Settings:
    """Read settings strictly: one that is not known here may well change the network."""
    try:
        return from_dict(cls, values, where)
    except SettingError as error:
        raise ImporterError(f"cannot import a network of these settings: {error}") from error


def _need(settings: Any, **needed: Any) -> None:
    """Refuse settings that a VQGAN of ours has no place for."""
    for name, value in needed.items():
        found = getattr(settings, name)
        if found != value:
            raise ImporterError(
                f"cannot import a network with {name} = {found!r}: only {value!r} can be computed here"
            )


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Drop settings that make no difference to a finished tokenizer."""
    return {name: value for name, value in values.items() if name not in names}


@dataclass(frozen=True, kw_only=True)
class TamingNetwork:
    """`ddconfig` of taming-transformers; the last four are latent-diffusion's, which has its VQModel."""

    ch: int
    ch_mult: tuple[int, ...] = (1, 2, 4, 8)
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    in_channels: int
    out_ch: int
    resolution: int
    z_channels: int
    double_z: bool = True
    resamp_with_conv: bool = True
    give_pre_end: bool = False
    tanh_out: bool = False
    use_linear_attn: bool = False
    attn_type: str = "vanilla"


@dataclass(frozen=True, kw_only=True)
class TamingSettings:
    """The parameters of VQModel and GumbelVQ that make the finished tokenizer."""

    n_embed: int
    embed_dim: int
    ddconfig: TamingNetwork
    remap: str | None = None


def taming(
    state: Mapping[str, Tensor], settings: Mapping[str, Any] | None, image_size: int | None = None
) -> Imported:
    """Import VQModel or GumbelVQ of taming-transformers.

    Args:
        settings: the published file's keys, or the parameters in its `model.params` alone.
        image_size: side of the pictures; attention stays at its levels.
    """
    if settings is None:
        raise ImporterError("taming needs settings: pass the yaml published beside it by --config")
    model = settings.get("model", settings)
    params = model.get("params", model) if isinstance(model, dict) else model
    if not isinstance(params, dict) or not isinstance(params.get("ddconfig"), dict):
        raise ImporterError(
            "the settings have no model.params.ddconfig, as taming's have: pass the yaml published beside "
            "the weights by --config"
        )
    target = str(model.get("target", "")).rpartition(".")[2]
    if target not in ("", "VQModel", "VQModelInterface", "VQNoDiscModel", "EMAVQ", "GumbelVQ"):
        raise ImporterError(f"cannot import a {target}: only VQModel and GumbelVQ are known here")
    known = {field.name for field in dataclasses.fields(TamingSettings)}
    chosen = {name: value for name, value in params.items() if name in known}
    chosen["ddconfig"] = _without(params["ddconfig"], "dropout")
    read = _read(TamingSettings, chosen)
    network = read.ddconfig
    _need(read, remap=None)
    _need(network, double_z=False, resamp_with_conv=True, in_channels=3, out_ch=3)
    _need(network, give_pre_end=False, tanh_out=False, use_linear_attn=False, attn_type="vanilla")
    gumbel = target == "GumbelVQ" or (not target and "quantize.proj.weight" in state)
    if gumbel:  # its scores are computed of vectors that were mapped to embed_dim already
        _need(read, embed_dim=network.z_channels)
    levels = range(len(network.ch_mult))
    config = _config(
        image_size=network.resolution if image_size is None else image_size,
        attention_levels=[i for i in levels if network.resolution >> i in network.attn_resolutions],
        channels=network.ch,
        channel_multipliers=network.ch_mult,
        num_res_blocks=network.num_res_blocks,
        latent_channels=network.z_channels,
        num_codes=read.n_embed,
        code_dim=read.embed_dim,
        quantizer=QuantizerKind.GUMBEL if gumbel else QuantizerKind.NEAREST,
        normalised=gumbel,  # the key's default where it means nothing
    )
    return rename(state, config, TAMING_GUMBEL if gumbel else TAMING)


@dataclass(frozen=True, kw_only=True)
class LlamaGenSettings:
    """`ModelArgs` of LlamaGen with its defaults; the last two are those of its encoder and decoder."""

    encoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    codebook_l2_norm: bool = True
    z_channels: int = 256
    ch: int = 128
    num_res_blocks: int = 2


VQ_8 = LlamaGenSettings(encoder_ch_mult=(1, 2, 2, 4), decoder_ch_mult=(1, 2, 2, 4))
VQ_16 = LlamaGenSettings()


def llamagen(
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> Imported:
    """Import LlamaGen's VQ-8 or VQ-16, or a VQModel of other settings of its code.

    Args:
        settings: keys of `ModelArgs`; None tells VQ-8 and VQ-16 apart by their number of levels.
        image_size: side of the pictures; attention stays at the lowest resolution.
    """
    if settings is None:
        pattern = re.compile(r"encoder\.conv_blocks\.(\d+)\.")
        num_levels = len({match[1] for name in state if (match := pattern.match(name))})
        known = {len(args.encoder_ch_mult): args for args in (VQ_8, VQ_16)}
        if num_levels not in known:
            raise ImporterError(
                f"an encoder of {num_levels} levels is neither VQ-8 (4) nor VQ-16 (5): check that the "
                "file is whole, or pass its settings by --config"
            )
        read = known[num_levels]
    else:
        of_training = ("codebook_show_usage", "commit_loss_beta", "entropy_loss_ratio", "dropout_p")
        read = _read(LlamaGenSettings, _without(settings, *of_training))
    _need(read, decoder_ch_mult=read.encoder_ch_mult)
    config = _config(
        image_size=256 if image_size is None else image_size,
        attention_levels=[len(read.encoder_ch_mult) - 1],
        channels=read.ch,
        channel_multipliers=read.encoder_ch_mult,
        num_res_blocks=read.num_res_blocks,
        latent_channels=read.z_channels,
        num_codes=read.codebook_size,
        code_dim=read.codebook_embed_dim,
        normalised=read.codebook_l2_norm,
    )
    return rename(state, config, LLAMAGEN)


# The default of diffusers' class, which computes nothing by it. Published networks of 256 and 512 pixels have it
# too: diffusers' scripts/convert_vq_diffusion_to_diffusers.py, scripts/convert_amused.py.
_UNSAID_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class DiffusersSettings:
    """config.json of diffusers' VQModel, with its defaults."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 3
    sample_size: int = _UNSAID_SIZE
    num_vq_embeddings: int = 256
    norm_num_groups: int = 32
    vq_embed_dim: int | None = None
    norm_type: str = "group"
    mid_block_add_attention: bool = True
    _class_name: str = "VQModel"


def diffusers(
    state: Mapping[str, Tensor], settings: Mapping[str, Any] | None, image_size: int | None = None
) -> Imported:
    """Import diffusers' VQModel.

    Args:
        settings: the keys of its config.json.
        image_size: side of the pictures; attention stays at its levels. None takes `sample_size`, if
            somebody has set it.
    """
    if settings is None:
        raise ImporterError("diffusers needs settings: pass its config.json by --config")
    for_pipelines = ("_name_or_path", "scaling_factor", "lookup_from_codebook", "force_upcast")
    read = _read(DiffusersSettings, _without(settings, "_diffusers_version", *for_pipelines))
    _need(read, _class_name="VQModel", in_channels=3, out_channels=3, act_fn="silu")
    _need(read, norm_type="group")
    if image_size is None and read.sample_size == _UNSAID_SIZE:
        raise ImporterError(
            f"a sample_size of {_UNSAID_SIZE} is diffusers' default and says nothing of the pictures: pass their "
            "side by --image-size (256 for vq-diffusion-ithq, 256 or 512 for aMUSEd)"
        )
    attention = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
    if not attention.keys() >= set(read.down_block_types):
        raise ImporterError(
            f"cannot import a network with down_block_types = {read.down_block_types}: "
            f"only {' and '.join(attention)} can be computed here"
        )
    mirrored = [
        kind.replace("DownEncoder", "UpDecoder") for kind in reversed(read.down_block_types)
    ]
    _need(read, up_block_types=tuple(mirrored))
    widths = read.block_out_channels
    if (
        len(widths) != len(read.down_block_types)
        or 0 in widths
        or any(width % widths[0] for width in widths)
    ):
        raise ImporterError(
            f"cannot import a network with block_out_channels = {widths}: only one a block, all "
            "multiples of the first, can be computed here"
        )
    config = _config(
        image_size=read.sample_size if image_size is None else image_size,
        attention_levels=[i for i, kind in enumerate(read.down_block_types) if attention[kind]],
        channels=widths[0] if widths else 0,
        channel_multipliers=tuple(width // widths[0] for width in widths),
        num_res_blocks=read.layers_per_block,
        latent_channels=read.latent_channels,
        num_codes=read.num_vq_embeddings,
        code_dim=read.latent_channels if read.vq_embed_dim is None else read.vq_embed_dim,
        norm_groups=read.norm_num_groups,
        middle_attention=read.mid_block_add_attention,
        normalised=False,
    )
    old = any(".query." in name for name in state)
    return rename(state, config, DIFFUSERS_OLD if old else DIFFUSERS)


def _config(image_size: int, attention_levels: list[int], **rest: Any) -> VQGANConfig:
    sides = tuple(image_size >> level for level in attention_levels)
    shape = {"image_size": image_size, "attention_resolutions": sides, **rest}
    return _read(VQGANConfig, shape)
