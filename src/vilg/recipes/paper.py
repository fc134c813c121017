"""The paper's sizes."""

from dataclasses import replace

from vilg.model.folder import SHIPPED
from vilg.model.patterns import paper_patterns
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AugmentConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig, TrainingPrecision
from vilg.training.optim import OptimConfig
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


def lite_300m() -> Recipe:
    """The paper's ablation model (section 5): 24 layers, width 1024, 16 heads.

    Over the tokens of `vqgan_f8_8192` and one's own pairs: --set generator.data.source=FOLDER. Rates
    are CogView's (2105.13290, appendix), the nearest documented recipe; the paper gives none.
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(source="pairs"),
            vocabulary=SHIPPED / "tokenizer.json",
            width=1024,
            num_heads=16,
            patterns=paper_patterns(24),
            image_tokenizer="runs/vqgan_f8_8192/tokenizer/model",
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

    Its shape is complete and it builds on the meta device; one process cannot hold its training.
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
            loop=replace(recipe.generator.loop, batch_size=6144),
            optim=replace(recipe.generator.optim, peak_lr=1e-4, final_lr=1e-5),
        ),
    )
