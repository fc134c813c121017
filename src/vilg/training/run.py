"""A whole run: pictures and captions in, a model folder out.

    OUT/config.json   the resolved recipe
    OUT/tokenizer/    log.jsonl, checkpoints/, samples/, model/ (the finished image tokenizer), and
                      tokens/ (refined ids) if there are any
    OUT/generator/    the same, and tokens/ (every picture's ids)

Each stage is finished when its `model/` folder is; resuming skips finished stages.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vilg.config import require, to_json
from vilg.data.order import permute
from vilg.data.pictures import load_pictures, tell
from vilg.data.shards import load_samples
from vilg.errors import VilgError
from vilg.files import write_whole
from vilg.images import to_pictures
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model, find_model, load_model, read_config, save_model, weights_hash
from vilg.model.generator import GeneratorConfig
from vilg.model.patterns import Pattern
from vilg.text import TextTokenizer
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.tokenizer.perceptual import lite0_loss
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.refine import search_id
from vilg.tokenizer.tokens import refined_tokens, tokenise
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AS_THEY_ARE, AugmentConfig
from vilg.training.checkpoint import CheckpointError
from vilg.training.end_to_end import EndToEnd, EndToEndConfig
from vilg.training.generator_job import (
    Encode,
    GeneratorJob,
    GeneratorLossConfig,
    check_end_to_end,
    tokenise_pair,
)
from vilg.training.inputs import (
    TRAIN,
    DataConfig,
    RunError,
    data_set_digest,
    moved_tokens,
    pin_data,
    read_pictures,
    stored_tokens,
)
from vilg.training.loop import LoopConfig, Precision, train
from vilg.training.optim import OptimConfig
from vilg.training.picture_loss import PictureLossConfig, check_begins, check_fits
from vilg.training.shared_codes import fold_codes, share_codes
from vilg.training.tokenizer_job import DecoderJob, TokenizerJob

DISCRIMINATOR_OPTIM = OptimConfig(peak_lr=2e-4, betas=(0.5, 0.9))  # VQGAN's betas


@dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """Training of an image tokenizer.

    Attributes:
        init: folder or hub id of the model whose image tokenizer to start from; None starts anew.
        decoder_only: the decoder of `init` learns on alone, so that tokens stay what they are.
        refine_steps: over 0, the decoder alone also sees tokens that are refined in so many steps
            (`tokenizer/refine.py`), half of the times that such a picture comes. They are made first, in
            about the time that training on each of these pictures as often would take.
        refine_pictures: how many pictures, drawn by the loop's seed, get them; None is all.
        discriminator_optim: for the adversarial term.
    """

    data: DataConfig
    model: TokenizerConfig
    init: str | None = None
    decoder_only: bool = False
    refine_steps: int = 0
    refine_pictures: int | None = None
    loss: PictureLossConfig = PictureLossConfig()
    codebook: CodebookConfig = CodebookConfig()
    augmentation: AugmentConfig = AugmentConfig()
    loop: LoopConfig
    optim: OptimConfig
    discriminator_optim: OptimConfig = DISCRIMINATOR_OPTIM

    def __post_init__(self) -> None:
        require(
            self.init is not None or not self.decoder_only,
            "a decoder alone needs the tokenizer that it belongs to: set tokenizer.init",
        )
        require(self.refine_steps >= 0, "refine_steps must be 0 or more")
        require(
            self.refine_steps == 0
            or (
                isinstance(self.model, VQGANConfig)
                and self.model.quantizer is QuantizerKind.NEAREST
            ),
            "only tokens that are nearest codes can be refined: set tokenizer.refine_steps=0",
        )
        require(
            self.decoder_only or self.refine_steps == 0,
            "while the encoder learns no tokens can be refined beforehand: set tokenizer.decoder_only=true",
        )
        require(
            self.refine_pictures is None or self.refine_pictures >= 1,
            "refine_pictures must be at least 1, or null",
        )
        require(
            self.refine_pictures is None or self.refine_steps > 0,
            "refine_pictures says how many get refined tokens: set tokenizer.refine_steps too",
        )
        require(
            self.augmentation.noise == 0,
            "a decoder would learn to paint the noise: set tokenizer.augmentation.noise=0",
        )
        check_begins(self.loss, self.loop.num_steps)


@dataclass(frozen=True, kw_only=True)
class GeneratorRun:
    """Training of a generator; grid and vocabularies follow from its tokenizers.

    Attributes:
        image_tokenizer: folder or hub id of the model that lends its tokenizer; None takes the one
            this run trained, or else the shipped one.
        vocabulary: a tokenizer.json.
        init: folder or hub id of the model to start from; None starts anew.
        augmentation: of the pictures that captions are learnt from; drawn ones stay where they are. A
            mirrored arrow has the wrong name: set `flip` only where none of the captions tells sides.
        prefix_augmentation: of the pictures whose tokens are read while a picture is drawn; the tokens to draw
            are those of the picture as it is. On a small set a picture is soon known by heart from the exact
            numbers of its first tokens, which a drawing seldom hits (docs/lab/decisions/0012). All pictures of
            a batch are moved and encoded, at every step.
        share_codes: let image codes of like vectors be learnt together (`training.shared_codes`); for sets so
            small that a code is seen too seldom to be learnt alone.
        end_to_end: train an image reconstructor with the generator; None trains the generator alone.
        discriminator_optim: for the adversarial term of `end_to_end`.
    """

    data: DataConfig
    vocabulary: Path
    width: int
    num_heads: int
    patterns: tuple[Pattern, ...]
    max_text: int = 64
    qk_norm: bool = False
    image_tokenizer: str | None = None
    init: str | None = None
    sampling: SamplingConfig = SamplingConfig()
    loss: GeneratorLossConfig = GeneratorLossConfig()
    augmentation: AugmentConfig = AS_THEY_ARE
    prefix_augmentation: AugmentConfig = AS_THEY_ARE
    share_codes: bool = False
    end_to_end: EndToEndConfig | None = None
    loop: LoopConfig
    optim: OptimConfig
    discriminator_optim: OptimConfig = DISCRIMINATOR_OPTIM

    def __post_init__(self) -> None:
        # The shape itself is only known with the tokenizers; this much is, before any work.
        require(
            self.num_heads >= 1 and self.width % self.num_heads == 0,
            f"num_heads {self.num_heads} must divide the width {self.width}",
        )
        for name in ("augmentation", "prefix_augmentation"):
            require(
                getattr(self, name).recolour == 0,
                f"captions name colours: set generator.{name}.recolour=0",
            )
        require(
            not self.prefix_augmentation.flip,
            "a mirrored beginning does not go on as its picture does: set "
            "generator.prefix_augmentation.flip=false",
        )
        require(
            self.augmentation == AS_THEY_ARE or self.loss.image_to_text_share > 0,
            "generator.augmentation moves described pictures, and "
            "generator.loss.image_to_text_share=0 describes none",
        )
        require(
            self.prefix_augmentation == AS_THEY_ARE or self.loss.text_to_image_share > 0,
            "generator.prefix_augmentation moves what is read while a picture is drawn, and "
            "generator.loss.text_to_image_share=0 draws none",
        )
        if self.end_to_end is not None:
            check_end_to_end(self.loss)
            require(
                self.prefix_augmentation == AS_THEY_ARE,
                "end-to-end training shows true tokens only: leave generator.prefix_augmentation out",
            )
            check_begins(self.end_to_end.loss, self.loop.num_steps)
        require(
            self.end_to_end is not None or self.sampling.decoder is Decoder.TWO_STAGE,
            "without generator.end_to_end there is no end-to-end decoder: set "
            "generator.sampling.decoder=two-stage",
        )

    def shape(self, image_tokenizer: TokenizerConfig, vocabulary_size: int) -> GeneratorConfig:
        """Return the generator's shape over these tokens."""
        return GeneratorConfig(
            width=self.width,
            num_heads=self.num_heads,
            patterns=self.patterns,
            grid_height=image_tokenizer.grid_size,
            grid_width=image_tokenizer.grid_size,
            num_codes=image_tokenizer.num_codes,
            vocabulary_size=vocabulary_size,
            max_text=self.max_text,
            qk_norm=self.qk_norm,
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named complete run: an image tokenizer, a generator, or one after the other."""

    tokenizer: TokenizerRun | None = None
    generator: GeneratorRun | None = None


def run(recipe: Recipe, out: Path, *, resume: bool = False, log: TextIO = sys.stdout) -> Path:
    """Carry out a recipe and return the folder of the finished model.

    Raises:
        RunError: the folder holds another run.
        CheckpointError, DataError, ModelError, NonFiniteLoss: from the stages.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("several processes cannot train one run yet: start one, without torchrun")
    if torch.cuda.is_available():
        print("training on the CPU: this version does not use a GPU", file=log, flush=True)
    settings = to_json(recipe)
    config = out / "config.json"
    if config.exists() and not resume:
        raise RunError(f"{out} holds a run: add --resume to go on with it, or choose another --out")
    if resume and not config.exists():
        raise CheckpointError(f"nothing to resume in {out}: start without --resume")
    if resume and config.read_text(encoding="utf-8") != settings:
        raise RunError(
            f"{config} differs from these settings: resume with the settings it began with"
        )
    if not resume:
        _check_inputs(recipe)
        out.mkdir(parents=True, exist_ok=True)
        write_whole(config, settings)

    try:
        return _train_stages(recipe, out, log)
    except (VilgError, KeyboardInterrupt):
        # What fails before anything is saved leaves the folder free for the corrected command.
        stages = [out / stage for stage in ("tokenizer", "generator")]
        for stage in stages:
            if not _has_checkpoint(stage):
                (stage / "data.txt").unlink(missing_ok=True)
                shutil.rmtree(stage / "tokens", ignore_errors=True)
        if not any(_has_checkpoint(stage) for stage in stages):
            config.unlink()
        raise


def _train_stages(recipe: Recipe, out: Path, log: TextIO) -> Path:
    """Train what is not finished yet; return the folder of the last model."""
    finished = None
    if recipe.tokenizer:
        finished = out / "tokenizer" / "model"
        if not (finished / "config.json").exists():
            _train_tokenizer(recipe.tokenizer, finished.parent, log)
    if recipe.generator:
        lender = finished or find_model(recipe.generator.image_tokenizer)
        finished = out / "generator" / "model"
        if not (finished / "config.json").exists():
            _train_generator(recipe.generator, lender, finished.parent, log)
    assert finished is not None  # `_check_inputs` has seen to it
    return finished


def _check_inputs(recipe: Recipe) -> None:
    """Find out that data or models are missing before the output folder is taken."""
    if not (recipe.tokenizer or recipe.generator):
        raise RunError("the recipe trains nothing: give it a tokenizer or a generator")
    if recipe.tokenizer:
        read_pictures(recipe.tokenizer.data)
        recipe.tokenizer.loss.perceptual_loss()
        if recipe.tokenizer.refine_steps:
            lite0_loss(pooled=True)
        check_fits(recipe.tokenizer.loss, recipe.tokenizer.model)
        if recipe.tokenizer.init is not None:
            _initial_tokenizer(recipe.tokenizer.init, recipe.tokenizer.model)
    if recipe.generator:
        data = recipe.generator.data
        samples = load_samples(data.folder, TRAIN, data.groups)[: data.limit]
        words = TextTokenizer.from_file(recipe.generator.vocabulary)
        for sample in samples:  # before a tokenizer is trained for hours
            tokenise_pair(sample, np.empty(0, np.uint16), words, recipe.generator.max_text)
        kind = (
            recipe.tokenizer.model
            if recipe.tokenizer
            else read_config(find_model(recipe.generator.image_tokenizer)).image_tokenizer
        )
        recipe.generator.shape(kind, len(words))
        if recipe.generator.end_to_end is not None:
            check_fits(recipe.generator.end_to_end.loss, kind)
            recipe.generator.end_to_end.loss.perceptual_loss()
        if recipe.generator.init is not None:
            read_config(find_model(recipe.generator.init))


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("step-????????"))


def _train_tokenizer(config: TokenizerRun, folder: Path, log: TextIO) -> None:
    pictures = read_pictures(config.data)
    pin_data(folder, pictures.digest)
    print(f"tokenizer: {len(pictures.training)} pictures", file=log, flush=True)
    if pictures.left_out:
        left_out = tell(pictures.left_out)
        print(f"left out, not pictures by their names: {left_out}", file=log, flush=True)
    resume = _has_checkpoint(folder)
    # Encoder and codes that stay are in no checkpoint.
    starts_from_model = config.init is not None and (config.decoder_only or not resume)
    init = _initial_tokenizer(config.init, config.model) if starts_from_model else None
    arrays_NYX3 = load_pictures(pictures.training, config.model.image_size)
    settings = (config.model, config.loss, config.codebook, config.augmentation, config.loop)
    shown = load_pictures(pictures.shown, config.model.image_size)
    job: TokenizerJob
    if config.decoder_only:
        assert init is not None
        refined = _refined_tokens(config, init, arrays_NYX3, folder / "tokens")
        job = DecoderJob(*settings, arrays_NYX3, shown, init=init, refined=refined)
    else:
        job = TokenizerJob(*settings, arrays_NYX3, shown, init=init)
    optims = [config.optim, config.discriminator_optim][: len(job.turns)]
    train(job, config.loop, optims, folder, resume=resume, out=log)
    save_model(folder / "model", Model(job.tokenizer.eval()))


def _refined_tokens(
    config: TokenizerRun, init: ImageTokenizer, arrays_NYX3: NDArray[np.uint8], store: Path
) -> tuple[NDArray[np.int64], NDArray[np.uint16]] | None:
    """Return which pictures have better tokens, any of all of them, and these tokens, from the store."""
    if config.refine_steps == 0:
        return None
    N, bf16 = len(arrays_NYX3), config.loop.precision is Precision.BF16
    num = min(config.refine_pictures or N, N)
    chosen_R = permute(np.arange(num), N, config.loop.seed, epoch=0)
    # What the codes decode to counts here, so the fingerprint, which leaves out the decoder, is not enough.
    by = f"{weights_hash(find_model(config.init))}, {search_id(config.refine_steps, bf16=bf16)}"
    tokens_RN = stored_tokens(
        store,
        [str(i) for i in chosen_R],
        by,
        lambda: refined_tokens(init, arrays_NYX3[chosen_R], config.refine_steps, bf16),
    )
    grid = init.config.grid_size
    return chosen_R, tokens_RN.reshape(-1, grid, grid)


def _initial_tokenizer(init: str | None, config: TokenizerConfig) -> ImageTokenizer:
    """Load the tokenizer to go on from; it must have the recipe's shape."""
    folder = find_model(init)
    if read_config(folder).image_tokenizer != config:
        raise RunError(
            f"{folder} has no image tokenizer of this recipe's shape to start from: "
            "set the keys of tokenizer.model as its config.json has them"
        )
    return load_model(folder).image_tokenizer


def _train_generator(config: GeneratorRun, lender: Path, folder: Path, log: TextIO) -> None:
    image_tokenizer = load_model(lender).image_tokenizer
    text_tokenizer = TextTokenizer.from_file(config.vocabulary)
    data = config.data
    samples = load_samples(data.folder, TRAIN, data.groups)[: data.limit]
    pin_data(folder, data_set_digest(data.folder))
    tokens_SN = stored_tokens(
        folder / "tokens",
        [sample.id for sample in samples],
        image_tokenizer.fingerprint(),
        partial(tokenise, image_tokenizer, samples),
    )
    print(f"generator: {len(samples)} pairs", file=log, flush=True)
    grid = image_tokenizer.config.grid_size
    shape = config.shape(image_tokenizer.config, len(text_tokenizer))

    def decode(image_ids_BN: Tensor) -> list[Image.Image]:
        return to_pictures(image_tokenizer.decode(image_ids_BN.view(-1, grid, grid)))

    pairs = [
        tokenise_pair(sample, tokens, text_tokenizer, config.max_text)
        for sample, tokens in zip(samples, tokens_SN, strict=True)
    ]
    seed, end_to_end = config.loop.seed, None
    moves = (config.augmentation, config.prefix_augmentation)
    if config.end_to_end is not None or any(move != AS_THEY_ARE for move in moves):
        pictures = load_pictures(samples, image_tokenizer.config.image_size)
    if config.end_to_end is not None:
        end_to_end = EndToEnd(config.end_to_end, shape, image_tokenizer, pictures, seed)

    def encoder(move: AugmentConfig) -> Encode | None:
        if move == AS_THEY_ARE:
            return None
        return partial(moved_tokens, image_tokenizer, pictures, seed, move)

    job = GeneratorJob(
        shape,
        config.loss,
        config.loop,
        pairs,
        text_tokenizer,
        decode,
        end_to_end,
        encode_described=encoder(config.augmentation),
        encode_prefix=encoder(config.prefix_augmentation),
    )
    resume = _has_checkpoint(folder)
    if config.init is not None and not resume:
        _start_from(find_model(config.init), job, image_tokenizer, log)
    if config.share_codes:
        share_codes(job.generator, image_tokenizer.quantizer.codebook_KD)
    optims = [config.optim, config.discriminator_optim][: len(job.turns)]
    train(job, config.loop, optims, folder, resume=resume, out=log)
    if config.share_codes:
        fold_codes(job.generator)
    model = Model(
        image_tokenizer,
        job.generator.eval(),
        text_tokenizer,
        config.sampling,
        end_to_end.reconstructor.eval() if end_to_end else None,
        text_tokenizer.latin_words(sample.captions["zh"][0] for sample in samples),
    )
    save_model(folder / "model", model)


def _start_from(
    folder: Path, job: GeneratorJob, image_tokenizer: ImageTokenizer, log: TextIO
) -> None:
    """Take over the weights of an earlier stage; its codes and words must mean the same."""
    config = read_config(folder)
    earlier = load_model(folder)
    if earlier.generator is None or config.generator != job.generator.config:
        raise RunError(f"{folder} has no generator of this recipe's shape to start from")
    if config.image_tokenizer_fingerprint != image_tokenizer.fingerprint():
        raise RunError(f"{folder} was trained on the codes of another image tokenizer")
    if config.text_tokenizer_fingerprint != job.tokenizer.fingerprint:
        raise RunError(f"{folder} was trained on another vocabulary")
    with torch.no_grad():
        job.generator.load_state_dict(earlier.generator.state_dict())
        if job.end_to_end is None:
            return
        if earlier.reconstructor is not None:
            job.end_to_end.reconstructor.load_state_dict(earlier.reconstructor.state_dict())
        else:
            print(
                f"{folder} has no reconstructor, which so begins as the image tokenizer's decoder",
                file=log,
                flush=True,
            )
