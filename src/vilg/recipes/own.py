"""Runs on one's own pictures."""

from pathlib import Path

from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AugmentConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.settings import Recipe, TokenizerRun


def picture_tokenizer() -> Recipe:
    """64x64 pixels in 64 tokens of 2,048 codes, by pixel errors; a token sees its surroundings alone.

    Pictures of any sizes: --set tokenizer.data.folder=FOLDER.
    """
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(folder=Path("pictures")),
            model=VQGANConfig(
                image_size=64,
                patch=2,
                channels=48,
                channel_multipliers=(1, 2, 4),
                num_res_blocks=1,
                attention_resolutions=(),
                latent_channels=64,
                num_codes=2048,
                code_dim=16,
                norm_groups=8,
                local_encoder=True,
            ),
            augmentation=AugmentConfig(
                max_shift=0
            ),  # a shift shows white, which few pictures' ground is
            codebook=CodebookConfig(decay=0.98),
            loop=LoopConfig(num_steps=6000, batch_size=16, show_every=1000, save_every=250),
            optim=OptimConfig(
                peak_lr=1.5e-3,
                final_lr=3e-5,
                warmup_steps=200,
                weight_decay=0.01,
                ema_decay=0.998,
            ),
        )
    )
