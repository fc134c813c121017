"""Runs on one's own pictures and pairs."""

from vilg.model.defaults import SamplingConfig
from vilg.model.folder import find_model
from vilg.model.patterns import paper_patterns
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AugmentConfig
from vilg.training.generator_job import GeneratorLossConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun


def picture_tokenizer() -> Recipe:
    """64x64 pixels in 64 tokens of 2,048 codes, by pixel errors; a token sees its surroundings alone.

    Pictures of any sizes: --data FOLDER, or any source of pairs.
    """
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(source="pictures"),
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


def pairs() -> Recipe:
    """A two-way model of any pairs, on a CPU: --data SOURCE says which.

    8 M parameters over the tokens of the shipped image tokenizer (another by --set
    generator.image_tokenizer=MODEL). A few hundred pairs it learns by heart. On a small set a prefix must be
    able to lie, or words fall idle (`disturbed`), and codes are seen too seldom to be learnt each alone
    (`share_codes`): docs/lab/decisions/0012.
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(source="pairs"),
            vocabulary=find_model(None) / "tokenizer.json",
            vocabulary_or_built=True,
            width=256,
            num_heads=4,
            patterns=paper_patterns(4),
            max_text=64,
            # Looked at on the demo's prompts: docs/lab/log.md.
            sampling=SamplingConfig(temperature=0.5, guidance=1.5, best_of=4),
            loss=GeneratorLossConfig(disturbed=0.5),
            share_codes=True,
            loop=LoopConfig(
                num_steps=1000, batch_size=16, log_every=100, show_every=500, save_every=200
            ),
            optim=OptimConfig(peak_lr=1e-3, final_lr=3e-5, warmup_steps=100, ema_decay=0.99),
        )
    )
