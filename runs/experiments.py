"""Train a named experiment, as `vilg train` does its recipes; called by the scripts beside it.

.venv/bin/python runs/experiments.py emoji_dvae --out runs/emoji_dvae --set tokenizer.loop.seed=1
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from vilg.config import override
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.patterns import paper_patterns
from vilg.shipped.emoji import EMOJI, VOCABULARY
from vilg.shipped.recipes import EMOJI_GROUPS, emoji_tokenizer
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.discriminator import DiscriminatorConfig
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AS_THEY_ARE
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.generator_job import GeneratorLossConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.memory import keep_freed_memory
from vilg.training.optim import OptimConfig
from vilg.training.picture_loss import PictureLossConfig
from vilg.training.run import run
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun

# A dVAE has a likelihood for its pixels and needs no other term (DALL-E, section 2.1).
DVAE_LOSS = PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0)
# What a reconstructor learns by in Table 7: the terms of the shipped tokenizer but for the adversarial.
TABLE7_LOSS = PictureLossConfig(perceptual=0.3)


def emoji_dvae() -> Recipe:
    """The paper's other tokenizer on the same pictures, for end-to-end training (section 5)."""
    return Recipe(
        tokenizer=TokenizerRun(
            data=DataConfig(source=str(EMOJI), split="train"),
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


def overfit_256() -> Recipe:
    """The paper's geometry end to end on a CPU: 256x256 pixels, f = 8, 1,024 tokens, every pattern.

    Learns 16 scenes by heart, in both directions; runs/overfit_256.sh builds them and scores it.
    """
    data = DataConfig(source="runs/overfit_256/scenes")
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
            loss=GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0),
            loop=LoopConfig(
                num_steps=600, batch_size=4, log_every=25, show_every=200, save_every=50
            ),
            optim=OptimConfig(peak_lr=1e-3, final_lr=1e-5, weight_decay=0.0, ema_decay=0.98),
        ),
    )


def table7() -> Recipe:
    """The generator of our Table 7, small and two-stage; runs/table7.sh trains all its cells with it.

    Its tokens are the shipped tokenizer's. Its end-to-end twin has `end_to_end` besides.
    """
    return Recipe(
        generator=GeneratorRun(
            data=DataConfig(source=str(EMOJI), split="train", only=EMOJI_GROUPS),
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


EXPERIMENTS = {
    recipe.__name__: recipe
    for recipe in (
        emoji_dvae,
        overfit_256,
        table7,
        table7_e2e,
        table7_e2e_longer,
        table7_adversarial,
        table7_decoder,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    recipe = override(EXPERIMENTS[options.recipe](), options.settings)
    keep_freed_memory()
    print(run(recipe, options.out, resume=options.resume, log=sys.stderr))


if __name__ == "__main__":
    main()
