"""The published image tokenizers, written once more: what the importers are compared with.

Each network stands here under its published names, as shapes of its tensors and as functions over a
dict of them, written from the papers and the published names and settings. Nothing here uses vilg.

    taming     arXiv 2012.09841, table 7; CompVis/taming-transformers, taming/models/vqgan.py
    llamagen   arXiv 2406.06525; FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_model.py
    diffusers  huggingface/diffusers, models/autoencoders/vq_model.py

Shape letters: B batch, C channels, K codes, P positions of a picture, H W cells, Y X pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Settings = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

# Published settings

# configs/model.yaml of heibox.uni-heidelberg.de/d/2e5662443a6b4307b470, which the README of
# CompVis/taming-transformers names; also microsoft/VQ-Diffusion,
# OUTPUT/pretrained_model/taming_dvae/taming_f8_8192_openimages.yaml.
TAMING_GUMBEL_F8_8192: Settings = {
    "model": {
        "base_learning_rate": 4.5e-06,
        "target": "taming.models.vqgan.GumbelVQ",
        "params": {
            "kl_weight": 1e-08,
            "embed_dim": 256,
            "n_embed": 8192,
            "monitor": "val/rec_loss",
            "temperature_scheduler_config": {
                "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
                "params": {"warm_up_steps": 0, "max_decay_steps": 1000001, "lr_min": 1e-06},
            },
            "ddconfig": {
                "double_z": False,
                "z_channels": 256,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 1, 2, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [32],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "taming.modules.losses.vqperceptual.DummyLoss"},
        },
    }
}
# configs/model.yaml of heibox.uni-heidelberg.de/d/a7530b09fed84f80a887, likewise; also
# FoundationVision/LlamaGen, tokenizer/vqgan/configs/vqgan_imagenet_f16_16384.yaml.
TAMING_F16_16384: Settings = {
    "model": {
        "base_learning_rate": 4.5e-06,
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": 256,
            "n_embed": 16384,
            "monitor": "val/rec_loss",
            "ddconfig": {
                "double_z": False,
                "z_channels": 256,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 1, 2, 2, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [16],
                "dropout": 0.0,
            },
            "lossconfig": {
                "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
                "params": {"disc_conditional": False, "disc_start": 0, "disc_weight": 0.75},
            },
        },
    }
}
# VQ_8 and VQ_16 in LlamaGen's vq_model.py, with the defaults of its Encoder.
LLAMAGEN_VQ_16: Settings = {
    "encoder_ch_mult": [1, 1, 2, 2, 4],
    "decoder_ch_mult": [1, 1, 2, 2, 4],
    "codebook_size": 16384,
    "codebook_embed_dim": 8,
    "codebook_l2_norm": True,
    "z_channels": 256,
    "ch": 128,
    "num_res_blocks": 2,
}
LLAMAGEN_VQ_8 = LLAMAGEN_VQ_16 | {
    "encoder_ch_mult": [1, 2, 2, 4],
    "decoder_ch_mult": [1, 2, 2, 4],
}
# vqvae/config.json of CompVis/ldm-celebahq-256 on the hub.
DIFFUSERS_LDM_CELEBAHQ: Settings = {
    "_class_name": "VQModel",
    "_diffusers_version": "0.1.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 3,
    "latent_channels": 3,
    "layers_per_block": 2,
    "num_vq_embeddings": 8192,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
# What diffusers' scripts/convert_vq_diffusion_to_diffusers.py makes of microsoft/VQ-Diffusion,
# OUTPUT/pretrained_model/taming_dvae/config.yaml: vqvae/config.json of microsoft/vq-diffusion-ithq.
DIFFUSERS_VQ_DIFFUSION: Settings = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": [64, 128, 256, 512],
    "down_block_types": [*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 256,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "num_vq_embeddings": 4096,
    "out_channels": 3,
    "sample_size": 32,
    "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
    "vq_embed_dim": 128,
}


# make_vqvae in diffusers' scripts/convert_amused.py: vqvae/config.json of amused/amused-256 and -512.
DIFFUSERS_AMUSED: Settings = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512, 768],
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "in_channels": 3,
    "latent_channels": 64,
    "layers_per_block": 2,
    "lookup_from_codebook": True,
    "mid_block_add_attention": False,
    "norm_num_groups": 32,
    "num_vq_embeddings": 8192,
    "out_channels": 3,
    "sample_size": 32,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
}


# Settings of small networks; every width is a multiple of the 32 groups that all of them have


def taming_settings(target: str = "VQModel", embed_dim: int = 6, **network: Any) -> Settings:
    """Return settings of a small network, with attention at the second of three levels."""
    ddconfig = {
        "double_z": False,
        "z_channels": 16,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [16],
        "dropout": 0.0,
    } | network
    params = {"embed_dim": embed_dim, "n_embed": 40, "ddconfig": ddconfig, "lossconfig": {}}
    return {"model": {"target": f"taming.models.vqgan.{target}", "params": params}}


def llamagen_settings(**changes: Any) -> Settings:
    return {
        "encoder_ch_mult": [1, 2, 2],
        "decoder_ch_mult": [1, 2, 2],
        "codebook_size": 40,
        "codebook_embed_dim": 8,
        "codebook_l2_norm": True,
        "z_channels": 16,
        "ch": 32,
        "num_res_blocks": 2,
    } | changes


def diffusers_settings(**changes: Any) -> Settings:
    return {
        "_class_name": "VQModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "block_out_channels": [32, 32, 64],
        "down_block_types": [*["DownEncoderBlock2D"] * 2, "AttnDownEncoderBlock2D"],
        "in_channels": 3,
        "latent_channels": 5,
        "layers_per_block": 1,
        "norm_num_groups": 32,
        "num_vq_embeddings": 40,
        "out_channels": 3,
        "sample_size": 64,
        "scaling_factor": 0.18215,
        "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 2],
        "vq_embed_dim": 7,
    } | changes


# Names and shapes


def _conv(name: str, n_in: int, n_out: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (n_out, n_in, side, side), f"{name}.bias": (n_out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _res_block(name: str, n_in: int, n_out: int, shortcut: str) -> Shapes:
    shapes = _norm(f"{name}.norm1", n_in) | _conv(f"{name}.conv1", n_in, n_out)
    shapes |= _norm(f"{name}.norm2", n_out) | _conv(f"{name}.conv2", n_out, n_out)
    return shapes | (_conv(f"{name}.{shortcut}", n_in, n_out, 1) if n_in != n_out else {})


def _attention(name: str, width: int) -> Shapes:
    shapes = _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.{part}", width, width, 1)
    return shapes


def _attention_of_diffusers(name: str, width: int) -> Shapes:
    shapes = _norm(f"{name}.group_norm", width)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):  # matrices
        shapes |= {f"{name}.{part}.weight": (width, width), f"{name}.{part}.bias": (width,)}
    return shapes


def taming_shapes(settings: Settings) -> Shapes:
    """List the tensors of VQModel or GumbelVQ, without those of its loss."""
    params = settings["model"]["params"]
    network, codes, dim = params["ddconfig"], params["n_embed"], params["embed_dim"]
    widths = [network["ch"] * multiplier for multiplier in network["ch_mult"]]
    depth, latent, attended = network["num_res_blocks"], network["z_channels"], _attended(network)
    shapes = _conv("encoder.conv_in", 3, network["ch"])
    width = network["ch"]
    for level, out in enumerate(widths):
        for block in range(depth):
            shapes |= _res_block(f"encoder.down.{level}.block.{block}", width, out, "nin_shortcut")
            width = out
            if level in attended:
                shapes |= _attention(f"encoder.down.{level}.attn.{block}", width)
        if level < len(widths) - 1:
            shapes |= _conv(f"encoder.down.{level}.downsample.conv", width, width)
    for side, n_in in (("encoder", None), ("decoder", latent)):
        if n_in is not None:
            shapes |= _conv("decoder.conv_in", n_in, width)
        shapes |= _res_block(f"{side}.mid.block_1", width, width, "nin_shortcut")
        shapes |= _attention(f"{side}.mid.attn_1", width)
        shapes |= _res_block(f"{side}.mid.block_2", width, width, "nin_shortcut")
    shapes |= _norm("encoder.norm_out", width) | _conv("encoder.conv_out", width, latent)
    for level in reversed(range(len(widths))):
        for block in range(depth + 1):
            out = widths[level]
            shapes |= _res_block(f"decoder.up.{level}.block.{block}", width, out, "nin_shortcut")
            width = out
            if level in attended:
                shapes |= _attention(f"decoder.up.{level}.attn.{block}", width)
        if level > 0:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", width, width)
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", width, 3)
    shapes |= _conv("quant_conv", latent, dim, 1) | _conv("post_quant_conv", dim, latent, 1)
    if settings["model"]["target"].endswith("GumbelVQ"):
        return (
            shapes | _conv("quantize.proj", dim, codes, 1) | {"quantize.embed.weight": (codes, dim)}
        )
    return shapes | {"quantize.embedding.weight": (codes, dim)}


def _attended(network: Settings) -> list[int]:
    """Levels with attention: those whose side at the trained resolution is listed."""
    levels = range(len(network["ch_mult"]))
    return [i for i in levels if network["resolution"] // 2**i in network["attn_resolutions"]]


def llamagen_shapes(settings: Settings) -> Shapes:
    """List the tensors of LlamaGen's VQModel."""
    widths = [settings["ch"] * multiplier for multiplier in settings["encoder_ch_mult"]]
    depth, latent, last = settings["num_res_blocks"], settings["z_channels"], len(widths) - 1
    codes, dim = settings["codebook_size"], settings["codebook_embed_dim"]
    shapes = _conv("encoder.conv_in", 3, settings["ch"])
    width = settings["ch"]
    for i, out in enumerate(widths):
        for block in range(depth):
            name = f"encoder.conv_blocks.{i}"
            shapes |= _res_block(f"{name}.res.{block}", width, out, "nin_shortcut")
            width = out
            if i == last:
                shapes |= _attention(f"{name}.attn.{block}", width)
        if i < last:
            shapes |= _conv(f"encoder.conv_blocks.{i}.downsample.conv", width, width)
    for side in ("encoder", "decoder"):
        shapes |= _res_block(f"{side}.mid.0", width, width, "nin_shortcut")
        shapes |= _attention(f"{side}.mid.1", width)
        shapes |= _res_block(f"{side}.mid.2", width, width, "nin_shortcut")
    shapes |= _norm("encoder.norm_out", width) | _conv("encoder.conv_out", width, latent)
    shapes |= _conv("decoder.conv_in", latent, width)
    for i, out in enumerate(reversed(widths)):  # counted from the lowest resolution
        for block in range(depth + 1):
            name = f"decoder.conv_blocks.{i}"
            shapes |= _res_block(f"{name}.res.{block}", width, out, "nin_shortcut")
            width = out
            if i == 0:
                shapes |= _attention(f"{name}.attn.{block}", width)
        if i < last:
            shapes |= _conv(f"decoder.conv_blocks.{i}.upsample.conv", width, width)
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", width, 3)
    shapes |= _conv("quant_conv", latent, dim, 1) | _conv("post_quant_conv", dim, latent, 1)
    return shapes | {"quantize.embedding.weight": (codes, dim)}


def diffusers_shapes(settings: Settings) -> Shapes:
    """List the tensors of diffusers' VQModel."""
    widths, depth = settings["block_out_channels"], settings["layers_per_block"]
    latent, codes = settings["latent_channels"], settings["num_vq_embeddings"]
    dim = settings.get("vq_embed_dim") or latent
    last = len(widths) - 1
    shapes = _conv("encoder.conv_in", 3, widths[0])
    width = widths[0]
    for i, out in enumerate(widths):
        for block in range(depth):
            name = f"encoder.down_blocks.{i}"
            shapes |= _res_block(f"{name}.resnets.{block}", width, out, "conv_shortcut")
            width = out
            if settings["down_block_types"][i].startswith("Attn"):
                shapes |= _attention_of_diffusers(f"{name}.attentions.{block}", width)
        if i < last:
            shapes |= _conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", width, width)
    for side in ("encoder", "decoder"):
        for block in (0, 1):
            name = f"{side}.mid_block.resnets.{block}"
            shapes |= _res_block(name, width, width, "conv_shortcut")
        if settings.get("mid_block_add_attention", True):
            shapes |= _attention_of_diffusers(f"{side}.mid_block.attentions.0", width)
    shapes |= _norm("encoder.conv_norm_out", width) | _conv("encoder.conv_out", width, latent)
    shapes |= _conv("decoder.conv_in", latent, width)
    for i, out in enumerate(reversed(widths)):
        for block in range(depth + 1):
            name = f"decoder.up_blocks.{i}"
            shapes |= _res_block(f"{name}.resnets.{block}", width, out, "conv_shortcut")
            width = out
            if settings["up_block_types"][i].startswith("Attn"):
                shapes |= _attention_of_diffusers(f"{name}.attentions.{block}", width)
        if i < last:
            shapes |= _conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", width, width)
    shapes |= _norm("decoder.conv_norm_out", width) | _conv("decoder.conv_out", width, 3)
    shapes |= _conv("quant_conv", latent, dim, 1) | _conv("post_quant_conv", dim, latent, 1)
    return shapes | {"quantize.embedding.weight": (codes, dim)}


def old_names_of_diffusers(state: State) -> State:
    """Rename the attention as files of older versions have it."""
    olds = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in state.items():
        for new, old in olds.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    return renamed


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Draw weights that keep values near 1 through the network, every bias and scale among them."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            value = 0.2 * value + (1 if "norm" in name and name.endswith("weight") else 0)
        elif "embed" not in name:
            value = value / value[0].numel() ** 0.5
        if name.startswith("decoder.conv_out"):  # pixels are mostly in [-1, 1]
            value = value / 3
        state[name] = value
    return state


# The computation


def conv(state: State, name: str, x: Tensor, **how: int) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """Normalise by the 32 groups of every published network."""
    B, C, H, W = x.shape
    groups = x.reshape(B, 32, -1)
    mean = groups.mean(dim=-1, keepdim=True)
    spread = ((groups - mean).square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    scale, shift = (state[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return ((groups - mean) / spread).view(B, C, H, W) * scale + shift


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def res_block(state: State, name: str, x: Tensor) -> Tensor:
    h = conv(state, f"{name}.conv1", swish(norm(state, f"{name}.norm1", x)), padding=1)
    h = conv(state, f"{name}.conv2", swish(norm(state, f"{name}.norm2", h)), padding=1)
    for shortcut in (f"{name}.nin_shortcut", f"{name}.conv_shortcut"):
        if f"{shortcut}.weight" in state:
            x = conv(state, shortcut, x)
    return x + h


def attention(state: State, name: str, x: Tensor) -> Tensor:
    """Attend over all cells with one head; matrices and 1x1 convolutions are the same."""
    B, C, H, W = x.shape
    new = f"{name}.group_norm.weight" in state
    h_BPC = norm(state, f"{name}.{'group_norm' if new else 'norm'}", x).flatten(2).transpose(1, 2)

    def linear(part: str, x_BPC: Tensor) -> Tensor:
        weight = state[f"{name}.{part}.weight"].reshape(C, C)
        return torch.einsum("bpc,dc->bpd", x_BPC, weight) + state[f"{name}.{part}.bias"]

    q, k, v = (linear(part, h_BPC) for part in (("to_q", "to_k", "to_v") if new else "qkv"))
    weights_BPP = (torch.einsum("bpc,boc->bpo", q, k) / C**0.5).softmax(dim=-1)
    h_BPC = linear("to_out.0" if new else "proj_out", torch.einsum("bpo,boc->bpc", weights_BPP, v))
    return x + h_BPC.transpose(1, 2).reshape(B, C, H, W)


def down(state: State, name: str, x: Tensor) -> Tensor:
    return conv(state, name, F.pad(x, (0, 1, 0, 1)), stride=2)


def up(state: State, name: str, x: Tensor) -> Tensor:
    return conv(state, name, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), padding=1)


def nearness(z_BDHW: Tensor, codes_KD: Tensor) -> Tensor:
    """Return minus the squared distance of every vector to every code, in double precision."""
    z, codes = z_BDHW.double()[:, None], codes_KD.double()[None, :, :, None, None]
    return -(z - codes).square().sum(dim=2)


def taming_encode(state: State, settings: Settings, pixels: Tensor) -> Tensor:
    """Return scores_BKHW; the token is the code of the highest."""
    network = settings["model"]["params"]["ddconfig"]
    last, attended = len(network["ch_mult"]) - 1, _attended(network)
    h = conv(state, "encoder.conv_in", pixels, padding=1)
    for level in range(last + 1):
        for block in range(network["num_res_blocks"]):
            h = res_block(state, f"encoder.down.{level}.block.{block}", h)
            if level in attended:
                h = attention(state, f"encoder.down.{level}.attn.{block}", h)
        if level < last:
            h = down(state, f"encoder.down.{level}.downsample.conv", h)
    h = res_block(state, "encoder.mid.block_1", h)
    h = attention(state, "encoder.mid.attn_1", h)
    h = res_block(state, "encoder.mid.block_2", h)
    h = conv(state, "encoder.conv_out", swish(norm(state, "encoder.norm_out", h)), padding=1)
    h = conv(state, "quant_conv", h)
    if "quantize.proj.weight" in state:
        return conv(state, "quantize.proj", h).double()
    return nearness(h, state["quantize.embedding.weight"])


def taming_decode(state: State, settings: Settings, ids_BHW: Tensor) -> Tensor:
    """Return pixels, not clamped."""
    network = settings["model"]["params"]["ddconfig"]
    attended = _attended(network)
    gumbel = "quantize.embed.weight" in state
    codes = state["quantize.embed.weight" if gumbel else "quantize.embedding.weight"]
    h = conv(state, "post_quant_conv", codes[ids_BHW].movedim(-1, 1))
    h = conv(state, "decoder.conv_in", h, padding=1)
    h = res_block(state, "decoder.mid.block_1", h)
    h = attention(state, "decoder.mid.attn_1", h)
    h = res_block(state, "decoder.mid.block_2", h)
    for level in reversed(range(len(network["ch_mult"]))):
        for block in range(network["num_res_blocks"] + 1):
            h = res_block(state, f"decoder.up.{level}.block.{block}", h)
            if level in attended:
                h = attention(state, f"decoder.up.{level}.attn.{block}", h)
        if level > 0:
            h = up(state, f"decoder.up.{level}.upsample.conv", h)
    return conv(state, "decoder.conv_out", swish(norm(state, "decoder.norm_out", h)), padding=1)


def llamagen_encode(state: State, settings: Settings, pixels: Tensor) -> Tensor:
    """Return scores_BKHW; the token is the code of the highest."""
    last = len(settings["encoder_ch_mult"]) - 1
    h = conv(state, "encoder.conv_in", pixels, padding=1)
    for i in range(last + 1):
        for block in range(settings["num_res_blocks"]):
            h = res_block(state, f"encoder.conv_blocks.{i}.res.{block}", h)
            if i == last:
                h = attention(state, f"encoder.conv_blocks.{i}.attn.{block}", h)
        if i < last:
            h = down(state, f"encoder.conv_blocks.{i}.downsample.conv", h)
    h = res_block(state, "encoder.mid.0", h)
    h = attention(state, "encoder.mid.1", h)
    h = res_block(state, "encoder.mid.2", h)
    h = conv(state, "encoder.conv_out", swish(norm(state, "encoder.norm_out", h)), padding=1)
    h, codes = conv(state, "quant_conv", h), state["quantize.embedding.weight"]
    if settings["codebook_l2_norm"]:
        h = h / h.square().sum(dim=1, keepdim=True).sqrt()
        codes = codes / codes.square().sum(dim=1, keepdim=True).sqrt()
    return nearness(h, codes)


def llamagen_decode(state: State, settings: Settings, ids_BHW: Tensor) -> Tensor:
    """Return pixels, not clamped."""
    last, codes = len(settings["decoder_ch_mult"]) - 1, state["quantize.embedding.weight"]
    if settings["codebook_l2_norm"]:
        codes = codes / codes.square().sum(dim=1, keepdim=True).sqrt()
    h = conv(state, "post_quant_conv", codes[ids_BHW].movedim(-1, 1))
    h = conv(state, "decoder.conv_in", h, padding=1)
    h = res_block(state, "decoder.mid.0", h)
    h = attention(state, "decoder.mid.1", h)
    h = res_block(state, "decoder.mid.2", h)
    for i in range(last + 1):
        for block in range(settings["num_res_blocks"] + 1):
            h = res_block(state, f"decoder.conv_blocks.{i}.res.{block}", h)
            if i == 0:
                h = attention(state, f"decoder.conv_blocks.{i}.attn.{block}", h)
        if i < last:
            h = up(state, f"decoder.conv_blocks.{i}.upsample.conv", h)
    return conv(state, "decoder.conv_out", swish(norm(state, "decoder.norm_out", h)), padding=1)


def _middle_of_diffusers(state: State, settings: Settings, side: str, h: Tensor) -> Tensor:
    h = res_block(state, f"{side}.mid_block.resnets.0", h)
    if settings.get("mid_block_add_attention", True):
        h = attention(state, f"{side}.mid_block.attentions.0", h)
    return res_block(state, f"{side}.mid_block.resnets.1", h)


def diffusers_encode(state: State, settings: Settings, pixels: Tensor) -> Tensor:
    """Return scores_BKHW; the token is the code of the highest."""
    kinds = settings["down_block_types"]
    h = conv(state, "encoder.conv_in", pixels, padding=1)
    for i, kind in enumerate(kinds):
        for block in range(settings["layers_per_block"]):
            h = res_block(state, f"encoder.down_blocks.{i}.resnets.{block}", h)
            if kind.startswith("Attn"):
                h = attention(state, f"encoder.down_blocks.{i}.attentions.{block}", h)
        if i < len(kinds) - 1:
            h = down(state, f"encoder.down_blocks.{i}.downsamplers.0.conv", h)
    h = _middle_of_diffusers(state, settings, "encoder", h)
    h = conv(state, "encoder.conv_out", swish(norm(state, "encoder.conv_norm_out", h)), padding=1)
    return nearness(conv(state, "quant_conv", h), state["quantize.embedding.weight"])


def diffusers_decode(state: State, settings: Settings, ids_BHW: Tensor) -> Tensor:
    """Return pixels, not clamped."""
    kinds, codes = settings["up_block_types"], state["quantize.embedding.weight"]
    h = conv(state, "post_quant_conv", codes[ids_BHW].movedim(-1, 1))
    h = conv(state, "decoder.conv_in", h, padding=1)
    h = _middle_of_diffusers(state, settings, "decoder", h)
    for i, kind in enumerate(kinds):
        for block in range(settings["layers_per_block"] + 1):
            h = res_block(state, f"decoder.up_blocks.{i}.resnets.{block}", h)
            if kind.startswith("Attn"):
                h = attention(state, f"decoder.up_blocks.{i}.attentions.{block}", h)
        if i < len(kinds) - 1:
            h = up(state, f"decoder.up_blocks.{i}.upsamplers.0.conv", h)
    return conv(
        state, "decoder.conv_out", swish(norm(state, "decoder.conv_norm_out", h)), padding=1
    )
