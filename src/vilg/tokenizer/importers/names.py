"""Published networks under our names: tables of names, and the one engine that renames.

taming-transformers, LlamaGen and diffusers publish the same network under different names. A format is
data here: which of its names stands for each of ours. The names are facts from the public sources; none
of their code is here:

    taming     CompVis/taming-transformers: taming/models/vqgan.py, taming/modules/vqvae/quantize.py,
               taming/modules/diffusionmodules/model.py
    llamagen   FoundationVision/LlamaGen: tokenizer/tokenizer_image/vq_model.py
    diffusers  huggingface/diffusers: models/autoencoders/vq_model.py and vae.py,
               models/unets/unet_2d_blocks.py, models/attention_processor.py, and
               models/modeling_utils.py for the attention's older names
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.importers.files import ImporterError
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig


@dataclass(frozen=True)
class Names:
    """Which of a format's names stands for each of ours.

    Attributes:
        places: layers, our pattern and theirs. Ours counts levels from full resolution, and a change
            of resolution belongs to the level that it leads to. Theirs may say {finer} and {coarser}
            for the levels next to {level}, and {rising} and {rising_coarser} for levels counted from
            the lowest resolution, as a decoder runs through them.
        parts: of a block, where their names differ; where there are several, ours is theirs one after
            the other.
        of_training: beginnings of the names of tensors that only training needs.
    """

    places: Mapping[str, str]
    parts: Mapping[str, tuple[str, ...]]
    of_training: tuple[str, ...] = ()

    def theirs(self, ours: str, num_levels: int) -> list[str]:
        """Return the names of the tensors that ours is made of."""
        matches = ((_match(place, ours), their_place) for place, their_place in self.places.items())
        match, their_place = next((match, theirs) for match, theirs in matches if match)
        level = int(match.groupdict().get("level", 0))
        found = their_place.format(
            **match.groupdict(),
            finer=level - 1,
            coarser=level + 1,
            rising=num_levels - 1 - level,
            rising_coarser=num_levels - 2 - level,
        )
        if match["rest"] is None:  # a tensor, not a layer
            return [found]
        part, _, leaf = match["rest"].rpartition(".")  # "conv1.weight" of a block, or "weight"
        if not part:
            return [f"{found}.{leaf}"]
        return [f"{found}.{their_part}.{leaf}" for their_part in self.parts.get(part, (part,))]


def _match(place: str, name: str) -> re.Match[str] | None:
    """Read {side}, {level} and {block}, one word or number each, and what follows the place."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[a-z\\d]+)", re.escape(place))
    return re.fullmatch(rf"{pattern}(?:\.(?P<rest>.+))?", name)


TAMING = Names(
    places={
        "{side}.conv_in": "{side}.conv_in",
        "{side}.middle_block0": "{side}.mid.block_1",
        "{side}.middle_attention": "{side}.mid.attn_1",
        "{side}.middle_block1": "{side}.mid.block_2",
        "{side}.norm_out": "{side}.norm_out",
        "{side}.conv_out": "{side}.conv_out",
        "encoder.level{level}_down": "encoder.down.{finer}.downsample.conv",
        "encoder.level{level}_block{block}": "encoder.down.{level}.block.{block}",
        "encoder.level{level}_attention{block}": "encoder.down.{level}.attn.{block}",
        "decoder.level{level}_up": "decoder.up.{coarser}.upsample.conv",
        "decoder.level{level}_block{block}": "decoder.up.{level}.block.{block}",
        "decoder.level{level}_attention{block}": "decoder.up.{level}.attn.{block}",
        "encoder.to_code": "quant_conv",
        "decoder.from_code": "post_quant_conv",
        "quantizer.codebook_KD": "quantize.embedding.weight",
    },
    parts={"shortcut": ("nin_shortcut",), "qkv": ("q", "k", "v"), "out": ("proj_out",)},
    of_training=(
        "loss.",
        "colorize",  # colours for segmentation maps
        "quantize.used",  # of a numbering that leaves codes out; ours is that of the codebook
        "quantize.embedding.cluster_size",
        "quantize.embedding.embed_avg",
        "model_ema.",  # latent-diffusion; its first stage takes the weights themselves
    ),
)
TAMING_GUMBEL = replace(
    TAMING,
    places={
        **TAMING.places,
        "quantizer.codebook_KD": "quantize.embed.weight",
        "quantizer.to_logits": "quantize.proj",
    },
)
LLAMAGEN = Names(
    places={
        **TAMING.places,
        "{side}.middle_block0": "{side}.mid.0",
        "{side}.middle_attention": "{side}.mid.1",
        "{side}.middle_block1": "{side}.mid.2",
        "encoder.level{level}_down": "encoder.conv_blocks.{finer}.downsample.conv",
        "encoder.level{level}_block{block}": "encoder.conv_blocks.{level}.res.{block}",
        "encoder.level{level}_attention{block}": "encoder.conv_blocks.{level}.attn.{block}",
        "decoder.level{level}_up": "decoder.conv_blocks.{rising_coarser}.upsample.conv",
        "decoder.level{level}_block{block}": "decoder.conv_blocks.{rising}.res.{block}",
        "decoder.level{level}_attention{block}": "decoder.conv_blocks.{rising}.attn.{block}",
    },
    parts=TAMING.parts,
    of_training=("quantize.codebook_used",),
)
DIFFUSERS = Names(
    places={
        **TAMING.places,
        "{side}.middle_block0": "{side}.mid_block.resnets.0",
        "{side}.middle_attention": "{side}.mid_block.attentions.0",
        "{side}.middle_block1": "{side}.mid_block.resnets.1",
        "{side}.norm_out": "{side}.conv_norm_out",
        "encoder.level{level}_down": "encoder.down_blocks.{finer}.downsamplers.0.conv",
        "encoder.level{level}_block{block}": "encoder.down_blocks.{level}.resnets.{block}",
        "encoder.level{level}_attention{block}": "encoder.down_blocks.{level}.attentions.{block}",
        "decoder.level{level}_up": "decoder.up_blocks.{rising_coarser}.upsamplers.0.conv",
        "decoder.level{level}_block{block}": "decoder.up_blocks.{rising}.resnets.{block}",
        "decoder.level{level}_attention{block}": "decoder.up_blocks.{rising}.attentions.{block}",
    },
    parts={
        "shortcut": ("conv_shortcut",),
        "norm": ("group_norm",),
        "qkv": ("to_q", "to_k", "to_v"),
        "out": ("to_out.0",),
    },
)
# The attention as files of older versions name it; diffusers still reads them.
DIFFUSERS_OLD = replace(
    DIFFUSERS,
    parts={**DIFFUSERS.parts, "qkv": ("query", "key", "value"), "out": ("proj_attn",)},
)


@dataclass(frozen=True)
class Imported:
    """An image tokenizer under our names.

    Attributes:
        left_out: their names of the tensors that only training needs.
    """

    config: VQGANConfig
    state: dict[str, Tensor]
    left_out: tuple[str, ...]

    def build(self) -> ImageTokenizer:
        """Return the network, ready to compute and to be saved without rounding its weights.

        Raises:
            ImporterError: weights are no numbers.
        """
        broken = [name for name, value in self.state.items() if not value.isfinite().all()]
        if broken:
            raise ImporterError(
                f"{len(broken)} weights are infinite or no numbers, as after a run that diverged: "
                f"{_some(broken)}; take an earlier checkpoint"
            )
        with torch.device("meta"):
            vqgan = ImageTokenizer(self.config)
        vqgan.load_state_dict(self.state, assign=True)
        vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        vqgan.stored_as = torch.float32
        return vqgan.eval().requires_grad_(False)


def rename(state: Mapping[str, Tensor], config: VQGANConfig, names: Names) -> Imported:
    """Find every weight of ours among theirs.

    Raises:
        ImporterError: weights are missing, left over or of another shape; the line names them.
    """
    with torch.device("meta"):
        expected = ImageTokenizer(config).state_dict()
    renamed: dict[str, Tensor] = {}
    used: set[str] = set()
    missing: list[str] = []
    misshapen: list[str] = []
    for ours, wanted in expected.items():
        theirs = names.theirs(ours, len(config.channel_multipliers))
        used.update(theirs)
        shape = (wanted.shape[0] // len(theirs), *wanted.shape[1:])
        # A 1x1 convolution may be kept as the matrix that it is.
        shapes = {shape, shape[:-2]} if shape[2:] == (1, 1) else {shape}
        missing += [name for name in theirs if name not in state]
        found = {name: state[name] for name in theirs if name in state}
        misshapen += [
            f"{name} ({_shape(value.shape)}, not {_shape(shape)})"
            for name, value in found.items()
            if tuple(value.shape) not in shapes
        ]
        if not (missing or misshapen):
            renamed[ours] = torch.cat([value.float().reshape(shape) for value in found.values()])
    left_out = tuple(name for name in state if name.startswith(names.of_training))
    unexpected = [name for name in state if name not in used and name not in left_out]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        listed = "; ".join(
            f"{len(keys)} {what}: {_some(keys)}" for what, keys in faults.items() if keys
        )
        raise ImporterError(
            f"the weights are not those of a network of these settings ({listed}): check that weights "
            "and settings belong together and that the file is whole"
        )
    if config.quantizer is QuantizerKind.NEAREST and config.normalised:
        # Theirs are normalised at every use, ours once.
        renamed["quantizer.codebook_KD"] = F.normalize(renamed["quantizer.codebook_KD"], dim=-1)
    return Imported(config, renamed, left_out)


def _shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes)) or "a number"


def _some(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
