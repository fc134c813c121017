"""The runs that made the shipped model, and small ones on its pictures.

A variant calls another recipe and replaces what differs.
"""

from dataclasses import replace

from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.patterns import paper_patterns
from vilg.recipes.own import pairs, picture_tokenizer
from vilg.shipped.emoji import EMOJI, VOCABULARY
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AugmentConfig
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun

# People and flags are near-copies of each other by the hundred, and compute is the scarce thing on a
# CPU: the generator learns the rest, the tokenizer learns all.
EMOJI_GROUPS = (
    "group=smileys-emotion",
    "group=animals-nature",
    "group=food-drink",
    "group=travel-places",
    "group=activities",
    "group=objects",
    "group=symbols",
)


def emoji_tokenizer() -> Recipe:
    """The shipped tokenizer's first stage: `picture_tokenizer` on the emoji, which stand on white."""
    recipe = picture_tokenizer()
    assert recipe.tokenizer is not None
    emoji = replace(
        recipe.tokenizer,
        data=DataConfig(source=str(EMOJI), split="train"),
        augmentation=AugmentConfig(),
    )
    return Recipe(tokenizer=emoji)


def emoji_cpu() -> Recipe:
    """One stage of the shipped model: `pairs` on the emoji, longer; runs/emoji_cpu.sh chains the stages.

    Shallow, in small batches: with a few thousand pictures steps are scarcer than weights. The last stage,
    which learns by heart, has larger ones (docs/lab/decisions/0013).
    """
    recipe = pairs()
    assert recipe.generator is not None
    emoji = replace(
        recipe.generator,
        data=DataConfig(source=str(EMOJI), split="train", only=EMOJI_GROUPS),
        vocabulary=VOCABULARY,
        vocabulary_or_built=False,
        max_text=48,
        loop=LoopConfig(
            num_steps=24_000, batch_size=8, log_every=100, show_every=3000, save_every=1000
        ),
        optim=replace(recipe.generator.optim, warmup_steps=200, ema_decay=0.999),
    )
    return Recipe(generator=emoji)


def emoji_cpu_tiny() -> Recipe:
    """Both stages on fruit and vegetables in under 5 minutes on 2 cores: a first run, and a test.

    Expected: t2i falls under 5, i2t under 2; the pictures are brownish blots.
    """
    data = DataConfig(source=str(EMOJI), split="train", only=("group=food-drink",), limit=256)
    return Recipe(
        tokenizer=TokenizerRun(
            data=data,
            model=VQGANConfig(
                image_size=64,
                channels=8,
                channel_multipliers=(1, 2, 4, 8),
                num_res_blocks=1,
                attention_resolutions=(),
                latent_channels=32,
                num_codes=256,
                code_dim=8,
                norm_groups=8,
            ),
            loop=LoopConfig(
                num_steps=200, batch_size=16, log_every=10, show_every=100, save_every=50
            ),
            optim=OptimConfig(peak_lr=3e-3, warmup_steps=20, weight_decay=0.01, ema_decay=0.98),
        ),
        generator=GeneratorRun(
            data=data,
            vocabulary=VOCABULARY,
            width=128,
            num_heads=4,
            patterns=paper_patterns(4),
            max_text=48,
            loop=LoopConfig(
                num_steps=200, batch_size=16, log_every=10, show_every=100, save_every=50
            ),
            optim=OptimConfig(peak_lr=2e-3, warmup_steps=20, ema_decay=0.98),
        ),
    )


def emoji_cpu_tiny_e2e() -> Recipe:
    """The same, and an image reconstructor that learns with the generator (paper section 3.1.3).

    Expected: as `emoji_cpu_tiny`, and `rec` falls.
    """
    recipe = emoji_cpu_tiny()
    assert recipe.generator is not None
    generator = replace(
        recipe.generator,
        end_to_end=EndToEndConfig(),
        sampling=SamplingConfig(decoder=Decoder.END_TO_END),
    )
    return replace(recipe, generator=generator)
