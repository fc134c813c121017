"""Named complete runs. A variant calls another recipe and replaces what differs.

vilg train emoji_cpu_tiny
"""

from collections.abc import Callable
from pathlib import Path

from vilg.model.folder import SamplingConfig
from vilg.model.patterns import paper_patterns
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.run import DataConfig, GeneratorRun, Recipe, TokenizerRun

EMOJI = Path("datasets/emoji")

# People and flags are near-copies of each other by the hundred, and compute is the scarce thing on a
# CPU: the generator learns the rest, the tokenizer learns all.
EMOJI_GROUPS = (
    "smileys-emotion",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
)


def emoji_tokenizer() -> Recipe:
    """64x64 pictures in 64 tokens of 1,024 codes. About half an hour on 2 CPU cores."""
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(folder=EMOJI),
            model=VQGANConfig(
                image_size=64,
                channels=16,
                channel_multipliers=(1, 2, 4, 8),
                num_res_blocks=1,
                attention_resolutions=(),
                latent_channels=64,
                num_codes=1024,
                code_dim=16,
                norm_groups=8,
            ),
            loop=LoopConfig(num_steps=1800, batch_size=16, show_every=200, save_every=200),
            optim=OptimConfig(peak_lr=1.5e-3, final_lr=3e-5, weight_decay=0.01, ema_decay=0.99),
        )
    )


def emoji_cpu() -> Recipe:
    """One stage of the shipped model: 11 M parameters; runs/emoji_cpu.sh chains the stages."""
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(folder=EMOJI, groups=EMOJI_GROUPS),
            vocabulary=EMOJI / "tokenizer.json",
            width=256,
            num_heads=4,
            patterns=paper_patterns(8),
            max_text=48,
            sampling=SamplingConfig(temperature=1.0, guidance=3.0),
            loop=LoopConfig(num_steps=3600, batch_size=16, show_every=500, save_every=250),
            optim=OptimConfig(peak_lr=1e-3, final_lr=3e-5, warmup_steps=200, ema_decay=0.998),
        )
    )


def emoji_cpu_tiny() -> Recipe:
    """Both stages on fruit and vegetables in under 5 minutes on 2 cores: a first run, and a test.

    Expected: t2i falls under 5, i2t under 2; the pictures are blots of the right colour.
    """
    data = DataConfig(folder=EMOJI, groups=("food-drink",), limit=256)
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
            vocabulary=EMOJI / "tokenizer.json",
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


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (emoji_tokenizer, emoji_cpu, emoji_cpu_tiny)
}
