"""Named complete runs. A variant calls another recipe and replaces what differs.

vilg train emoji_cpu_tiny
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.patterns import paper_patterns
from vilg.shipped.emoji import EMOJI, VOCABULARY
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.discriminator import DiscriminatorConfig
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AS_THEY_ARE, AugmentConfig
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.generator_job import GeneratorLossConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig, Precision
from vilg.training.optim import OptimConfig
from vilg.training.picture_loss import PictureLossConfig
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun

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


# A dVAE has a likelihood for its pixels and needs no other term (DALL-E, section 2.1).
DVAE_LOSS = PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0)


def emoji_tokenizer() -> Recipe:
    """64x64 pictures in 64 tokens of 2,048 codes, by pixel errors; each token sees its surroundings alone.

    With --set tokenizer.loop.precision=bf16 50 minutes on one thread of Zen 4, to 23.6 dB on unseen
    concepts. runs/emoji_cpu.sh goes on from it with the perceptual term.
    """
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(folder=EMOJI),
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


def emoji_dvae() -> Recipe:
    """The paper's other tokenizer on the same pictures, for end-to-end training (section 5)."""
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(folder=EMOJI),
            model=DVAEConfig(
                image_size=64,
                channels=32,
                channel_multipliers=(1, 2, 4, 8),
                num_blocks=1,
                num_codes=1024,
                code_dim=64,
            ),
            loss=DVAE_LOSS,
            codebook=CodebookConfig(temperature_steps=2000, kl=1.0, kl_steps=1000),
            loop=LoopConfig(num_steps=3000, batch_size=16, show_every=250, save_every=250),
            optim=OptimConfig(peak_lr=1e-3, final_lr=1e-5, weight_decay=1e-4, ema_decay=0.99),
        )
    )


def picture_tokenizer() -> Recipe:
    """A tokenizer of one's own pictures: --set tokenizer.data.folder=FOLDER, of any sizes."""
    recipe = emoji_tokenizer()
    assert recipe.tokenizer is not None
    pictures = replace(
        recipe.tokenizer,
        data=DataConfig(folder=Path("pictures")),
        augmentation=AugmentConfig(max_shift=0),  # a shift shows white, which is an emoji's ground
    )
    return replace(recipe, tokenizer=pictures)


def vqgan_f8_8192() -> Recipe:
    """The paper's image tokenizer, 1,024 tokens of 8,192 codes at 256x256; for a GPU and many pictures.

    Shape of the public f8-8192 model of taming-transformers (its config `vqgan_gumbel_f8`, which leaves the
    loss out), with that library's L1, perceptual and adversarial terms.
    """
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(folder=Path("pictures")),
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
            # Their rate is 4.5e-6 a picture of the batch.
            optim=OptimConfig(peak_lr=7.2e-5, final_lr=7.2e-5, betas=(0.5, 0.9), weight_decay=0.0),
            discriminator_optim=OptimConfig(
                peak_lr=7.2e-5, final_lr=7.2e-5, betas=(0.5, 0.9), weight_decay=0.0
            ),
        )
    )


def lite_300m() -> Recipe:
    """The paper's ablation model (section 5): 24 layers, width 1024, 16 heads.

    Over the tokens of `vqgan_f8_8192` and one's own pairs: --set generator.data.folder=FOLDER. Rates
    are CogView's (2105.13290, appendix), the nearest documented recipe; the paper gives none.
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(folder=Path("pairs")),
            vocabulary=VOCABULARY,
            width=1024,
            num_heads=16,
            patterns=paper_patterns(24),
            image_tokenizer="runs/vqgan_f8_8192/tokenizer/model",
            loop=LoopConfig(
                num_steps=150_000,
                batch_size=256,
                show_every=5000,
                save_every=1000,
                precision=Precision.BF16,
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


def emoji_cpu() -> Recipe:
    """One stage of the shipped model: 8 M parameters; runs/emoji_cpu.sh chains the stages.

    Shallow, in small batches: with a few thousand pictures steps are scarcer than weights. The last stage,
    which learns by heart, has larger ones (docs/lab/decisions/0013). On a small set a prefix must be able to lie,
    or words fall idle (`disturbed`), and codes are seen too seldom to be learnt each alone (`share_codes`):
    docs/lab/log.md.
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(folder=EMOJI, groups=EMOJI_GROUPS),
            vocabulary=VOCABULARY,
            width=256,
            num_heads=4,
            patterns=paper_patterns(4),
            max_text=48,
            # Looked at on the demo's prompts: docs/lab/log.md.
            sampling=SamplingConfig(temperature=0.5, guidance=1.5, best_of=4),
            loss=GeneratorLossConfig(disturbed=0.5),
            share_codes=True,
            loop=LoopConfig(
                num_steps=24_000, batch_size=8, log_every=100, show_every=3000, save_every=1000
            ),
            optim=OptimConfig(peak_lr=1e-3, final_lr=3e-5, warmup_steps=200, ema_decay=0.999),
        )
    )


def overfit_256() -> Recipe:
    """The paper's geometry end to end on a CPU: 256x256 pixels, f = 8, 1,024 tokens, every pattern.

    Learns 16 scenes by heart, in both directions; runs/overfit_256.sh builds them and scores it.
    """
    data = DataConfig(folder=Path("runs/overfit_256/scenes"))
    return Recipe(
        tokenizer=TokenizerRun(
            data=data,
            model=VQGANConfig(
                image_size=256,
                patch=4,
                channels=32,
                channel_multipliers=(1, 2),
                num_res_blocks=1,
                attention_resolutions=(),
                latent_channels=32,
                num_codes=512,
                code_dim=16,
                norm_groups=8,
            ),
            augmentation=AS_THEY_ARE,
            loop=LoopConfig(num_steps=400, batch_size=4, show_every=200, save_every=100),
            optim=OptimConfig(peak_lr=2e-3, weight_decay=0.01, ema_decay=0.98),
        ),
        generator=GeneratorRun(
            data=data,
            vocabulary=VOCABULARY,
            width=256,
            num_heads=4,
            patterns=paper_patterns(8),
            max_text=48,
            sampling=SamplingConfig(temperature=0.0),
            loss=GeneratorLossConfig(caption_drop=0.0, keyword_share=0.0),
            loop=LoopConfig(
                num_steps=600, batch_size=4, log_every=25, show_every=200, save_every=50
            ),
            optim=OptimConfig(peak_lr=1e-3, final_lr=1e-5, weight_decay=0.0, ema_decay=0.98),
        ),
    )


def emoji_cpu_tiny() -> Recipe:
    """Both stages on fruit and vegetables in under 5 minutes on 2 cores: a first run, and a test.

    Expected: t2i falls under 5, i2t under 2; the pictures are brownish blots.
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


# What a reconstructor learns by in Table 7: the terms of the shipped tokenizer but for the adversarial.
TABLE7_LOSS = PictureLossConfig(perceptual=0.3)


def table7() -> Recipe:
    """The generator of our Table 7, small and two-stage; runs/table7.sh trains all its cells with it.

    Its tokens are the shipped tokenizer's. Its end-to-end twin has `end_to_end` besides.
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(folder=EMOJI, groups=EMOJI_GROUPS),
            vocabulary=VOCABULARY,
            image_tokenizer=str(VOCABULARY.parents[1] / "emoji-tokenizer"),
            width=192,
            num_heads=3,
            patterns=paper_patterns(4),
            max_text=48,
            loop=LoopConfig(num_steps=1500, batch_size=16, show_every=500, save_every=250),
            optim=OptimConfig(peak_lr=1.5e-3, final_lr=3e-5, warmup_steps=100, ema_decay=0.99),
        )
    )


def table7_e2e() -> Recipe:
    """The same with a reconstructor that learns with it (paper section 3.1.3)."""
    recipe = table7()
    assert recipe.generator is not None
    generator = replace(
        recipe.generator,
        end_to_end=EndToEndConfig(loss=TABLE7_LOSS),
        sampling=SamplingConfig(decoder=Decoder.END_TO_END),
    )
    return replace(recipe, generator=generator)


def table7_e2e_longer() -> Recipe:
    """The end-to-end twin goes on: what `table7_adversarial` is compared with.

    It begins with the twin of seed 0 in runs/table7, where runs/table7.sh puts it unless told otherwise.
    """
    recipe = table7_e2e()
    assert recipe.generator is not None
    generator = replace(
        recipe.generator,
        init="runs/table7/table7_e2e-0/generator/model",
        loop=replace(recipe.generator.loop, num_steps=450),
        optim=replace(recipe.generator.optim, peak_lr=5e-4),
    )
    return Recipe(generator=generator)


def table7_adversarial() -> Recipe:
    """The same with a discriminator, which the paper expected to be unstable at 10 B and left for later.

    What keeps it stable: a reconstructor that is past its first steps, a late start, an adaptive weight with
    a limit, and a discriminator that pays for its slope; it has few steps, so it learns fast.
    """
    recipe = table7_e2e_longer()
    assert recipe.generator is not None
    loss = replace(
        TABLE7_LOSS,
        adversarial=0.2,
        adaptive_weight_limit=4.0,
        adversarial_from=50,
        r1_penalty=0.01,  # 1.0 keeps it from learning anything: docs/lab/log.md
        discriminator=DiscriminatorConfig(channels=32, num_layers=2),
    )
    adversarial = replace(
        recipe.generator,
        end_to_end=EndToEndConfig(loss=loss),
        discriminator_optim=replace(
            recipe.generator.discriminator_optim, peak_lr=1e-3, warmup_steps=20
        ),
    )
    return Recipe(generator=adversarial)


def table7_decoder() -> Recipe:
    """The tokenizer's own decoder, from codes, for as many steps by the loss of the end-to-end twin's.

    The cell that the paper lacks: whatever the twin's reconstructor does better than this one, it owes to
    the states that it reads.
    """
    recipe = emoji_tokenizer()
    tiny = table7().generator
    assert recipe.tokenizer is not None and tiny is not None
    decoder = replace(
        recipe.tokenizer,
        data=tiny.data,
        init=tiny.image_tokenizer,
        decoder_only=True,
        loss=TABLE7_LOSS,
        augmentation=AS_THEY_ARE,
        loop=tiny.loop,
        optim=tiny.optim,
    )
    return Recipe(tokenizer=decoder)


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        emoji_tokenizer,
        emoji_cpu,
        emoji_cpu_tiny,
        emoji_cpu_tiny_e2e,
        emoji_dvae,
        picture_tokenizer,
        vqgan_f8_8192,
        lite_300m,
        base_10b,
        overfit_256,
        table7,
        table7_e2e,
        table7_e2e_longer,
        table7_adversarial,
        table7_decoder,
    )
}
