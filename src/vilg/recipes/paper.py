"""The paper's sizes."""

from dataclasses import replace

from vilg.model.folder import SHIPPED
from vilg.model.patterns import paper_patterns
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AugmentConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig, TrainingPrecision
from vilg.training.optim import OptimConfig
from vilg.training.parallelize import ParallelConfig
from vilg.training.picture_loss import PictureLossConfig
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun


def vqgan_f8_8192() -> Recipe:
    """The paper's image tokenizer, 1,024 tokens of 8,192 codes at 256x256; for a GPU and many pictures.

    Shape of the public f8-8192 model of taming-transformers (its config `vqgan_gumbel_f8`, which leaves the
    loss out), with that library's L1, perceptual and adversarial terms.
    """
    # Their rate is 4.5e-6 a picture of the batch.
    optim = OptimConfig(peak_lr=7.2e-5, final_lr=7.2e-5, betas=(0.5, 0.9), weight_decay=0.0)
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(source="pictures"),
            model=VQGANConfig(quantizer=QuantizerKind.GUMBEL),
            augmentation=AugmentConfig(max_shift=0),
            loss=PictureLossConfig(
                l2=0.0, perceptual=1.0, adversarial=0.8, adversarial_from=250_000
            ),
            codebook=CodebookConfig(
                straight_through=True,
                temperature_from=0.9,
                temperature_to=1e-6,
                temperature_steps=1_000_001,
                # Theirs is 1e-8 a position; ours is divided by the pixel values, 192 a position.
                kl=192e-8,
                kl_steps=1,
            ),
            loop=LoopConfig(num_steps=1_000_000, batch_size=16, show_every=5000, save_every=5000),
            optim=optim,
            discriminator_optim=optim,
        )
    )


def dvae_f8_8192() -> Recipe:
    """DALL-E's image tokenizer (arXiv 2102.12092, appendix A.2), which the paper's ablation model reads.

    Theirs but for the end: their rate stays at its last value from step 1.2 M to 3 M, ours ends there.
    """
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(source="pictures"),
            model=DVAEConfig(),
            augmentation=AugmentConfig(max_shift=0),
            loss=PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0),
            codebook=CodebookConfig(),  # its schedules of temperature and divergence are DALL-E's
            loop=LoopConfig(num_steps=1_200_000, batch_size=512, show_every=5000, save_every=5000),
            optim=OptimConfig(
                peak_lr=1e-4,
                final_lr=1.25e-6,
                warmup_steps=0,
                betas=(0.9, 0.999),
                weight_decay=1e-4,
                ema_decay=0.999,
            ),
        )
    )


def lite_300m() -> Recipe:
    """The paper's ablation model (section 5): 24 layers, width 1024, 16 heads, over a dVAE's tokens.

    Of one's own pairs: --data SOURCE. The paper's other model of this size learns end to end: --set
    'generator.end_to_end={"loss": {"l1": 0, "l2": 0, "logit_laplace": 1}}'.

    | number | where from |
    | --- | --- |
    | 24 layers, width 1024, 16 heads, patterns, dVAE | the paper, sections 3.1.2 and 5 |
    | rate 3e-4, 2% warm-up, cosine, betas, decay | CogView's (arXiv 2105.13290, appendix): the paper gives none |
    | 256 pairs, 150,000 steps | ours: 38 M pairs, what 8 devices do in about two days by `vilg plan` |
    | 1 micro-batch | `vilg plan`, for 8 devices of 80 GB or more of them: 8 for one |
    | last rate a tenth of the first, clipping at 1 | ours: usual |
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(source="pairs"),
            vocabulary=SHIPPED / "tokenizer.json",
            width=1024,
            num_heads=16,
            patterns=paper_patterns(24),
            image_tokenizer="runs/dvae_f8_8192/tokenizer/model",
            loop=LoopConfig(
                num_steps=150_000,
                batch_size=256,
                show_every=5000,
                save_every=1000,
                precision=TrainingPrecision.BF16,
            ),
            optim=OptimConfig(peak_lr=3e-4, final_lr=3e-5, warmup_steps=3000),
        )
    )


def base_10b() -> Recipe:
    """The paper's main model (section 4.1): 48 layers, width 4096, 64 heads, about 10 B parameters.

    | number | where from |
    | --- | --- |
    | 48 layers, width 4096, 64 heads, VQGAN's tokens, sharding within a machine, recompute | the paper |
    | 6,144 pairs, 144,000 steps, 2% warm-up, cosine, betas, decay | CogView's: each of 145 M pairs 6 times |
    | rate 1e-4 | GPT-3's of 13 B (arXiv 2005.14165, table 2.1): CogView's 3e-4 is of 4 B |
    | qk_norm | ours: nothing is said against scores that run away |
    | 4 micro-batches, recompute | `vilg plan`, for 64 devices of 80 GB: 32 for 8 of them |
    """
    recipe = lite_300m()
    assert recipe.generator is not None
    return replace(
        recipe,
        generator=replace(
            recipe.generator,
            width=4096,
            num_heads=64,
            patterns=paper_patterns(48),
            qk_norm=True,
            image_tokenizer="runs/vqgan_f8_8192/tokenizer/model",
            parallel=ParallelConfig(shard_over=8, recompute=True),
            loop=replace(recipe.generator.loop, num_steps=144_000, batch_size=6144, accumulate=4),
            optim=replace(recipe.generator.optim, peak_lr=1e-4, final_lr=1e-5, warmup_steps=2880),
        ),
    )
