"""A whole run: pictures and captions in, a model folder out.

    OUT/config.json   the resolved recipe
    OUT/tokenizer/    config.json (what the stage was begun with), log.jsonl, checkpoints/, samples/,
                      model/ (the finished image tokenizer), and tokens/ (refined ids) if there are any
    OUT/generator/    the same, tokens/ (every picture's ids), and base/ (a model but for what is learnt); with
                      generator.lora also adapter/, which base/ and it make model/ of

Each stage is finished when its `model/` folder is; resuming skips finished stages.
"""

import io
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vilg.config import to_json
from vilg.data.mixture import Mixture
from vilg.data.order import permute
from vilg.data.pictures import load_pictures, tell
from vilg.data.store import Kind, file_hash
from vilg.device import HOST
from vilg.errors import VilgError
from vilg.files import write_whole
from vilg.images import to_pictures
from vilg.model.folder import (
    Model,
    ModelConfig,
    find_model,
    load_model,
    read_config,
    save_model,
    weights_hash,
)
from vilg.model.generator import Generator, GeneratorConfig
from vilg.model.lora import first_adapter
from vilg.model.weights import DTYPES
from vilg.parallel import check_divides, is_first, meet, num_processes
from vilg.progress import say
from vilg.text import LANGUAGES, TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.tokenizer.perceptual import lite0_loss
from vilg.tokenizer.refine import search_id
from vilg.tokenizer.tokens import refined_tokens
from vilg.training.augment import AS_THEY_ARE, AugmentConfig
from vilg.training.end_to_end import EndToEnd
from vilg.training.export import trained_model, write_trained_adapter
from vilg.training.generator_job import (
    GeneratorJob,
    StepTokens,
    check_shares,
)
from vilg.training.inputs import (
    NUM_SHOWN,
    Pairs,
    Pictures,
    find_store,
    load_readable,
    moved_tokens,
    read_pairs,
    read_pictures,
    rows_of,
    stored_tokens,
    texts_told,
)
from vilg.training.loop import TrainingPrecision, train
from vilg.training.memory import check_memory
from vilg.training.parallelize import build_generator, draw_weights, fill
from vilg.training.picture_loss import check_fits
from vilg.training.plan import settled
from vilg.training.run_folder import RunError, Stage, held, read_recipe
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun
from vilg.training.tokenizer_job import DecoderAlone, TokenizerJob


def run(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: torch.device = HOST,
    log: TextIO = sys.stdout,
) -> Path:
    """Carry out a recipe and return the folder of the finished model.

    Several processes (`parallel.joined`) call it alike; the first one writes and speaks for all.

    Args:
        resume: go on with the run in the folder (`run_folder.read_recipe` has its settings). Those of a
            stage that has saved something must be the same but for how it lies on devices; the others' may
            change.
        device: of this process.

    Raises:
        RunError: the folder holds another run.
        CheckpointError, DataError, ModelError, NonFiniteLoss: from the stages.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where NCCL looks
    if resume:
        read_recipe(out)
    if not is_first():
        log = io.StringIO()
        recipe, pictures, pairs = _check_stages(recipe, out, device, log)
        meet()
        return _train_stages(recipe, out, pictures, pairs, device, log)
    with held(out):
        config = out / "config.json"
        if config.exists() and not resume:
            raise RunError(
                f"{out} holds a run: add --resume to go on with it, or choose another --out"
            )
        recipe, pictures, pairs = _check_stages(recipe, out, device, log)
        if not config.exists() or config.read_text(encoding="utf-8") != to_json(recipe):
            write_whole(config, to_json(recipe))
        try:
            meet()
            return _train_stages(recipe, out, pictures, pairs, device, log)
        except (VilgError, KeyboardInterrupt, RuntimeError):  # the last, where a process has ended
            # What fails before anything is saved leaves the folder free for the corrected command.
            stages = [Stage(out / name) for name in ("tokenizer", "generator")]
            for stage in stages:
                stage.clear()
            if not any(stage.has_begun for stage in stages):
                config.unlink()
            raise


def _train_stages(
    recipe: Recipe,
    out: Path,
    pictures: Pictures | None,
    pairs: Pairs | None,
    device: torch.device,
    log: TextIO,
) -> Path:
    """Train what is not finished yet; return the folder of the last model."""
    finished = None
    if recipe.tokenizer:
        stage = Stage(out / "tokenizer")
        if pictures:
            _train_tokenizer(recipe.tokenizer, pictures, stage, device, log)
            _save_model(stage, recipe.tokenizer.loop.num_steps)
        finished = stage.model
    if recipe.generator:
        stage = Stage(out / "generator")
        if pairs:
            lender = finished or find_model(recipe.generator.image_tokenizer)
            _train_generator(recipe.generator, pairs, lender, stage, device, log)
            _save_model(stage, recipe.generator.loop.num_steps)
        finished = stage.model
    assert finished is not None  # `_check_stages` has seen to it
    return finished


def _check_stages(
    recipe: Recipe, out: Path, device: torch.device, log: TextIO
) -> tuple[Recipe, Pictures | None, Pairs | None]:
    """Find out what cannot work in any stage before the first one is trained for hours.

    Returns:
        the recipe without anything that is `auto`, and what its stages are trained on: None for one that is
        finished.
    """
    if not (recipe.tokenizer or recipe.generator):
        raise RunError("the recipe trains nothing: give it a tokenizer or a generator")
    tokenizer, generator = Stage(out / "tokenizer"), Stage(out / "generator")
    pictures = pairs = None
    if recipe.tokenizer:
        tokenizer.check(recipe.tokenizer)
        if not tokenizer.is_finished:
            pictures = read_pictures(recipe.tokenizer.data, out, log)
        if not tokenizer.has_begun:
            _check_tokenizer(recipe.tokenizer, device)
    if config := recipe.generator:
        generator.check(config)
        if not generator.is_finished:
            words = (config.vocabulary, config.vocabulary_or_built)
            pairs = read_pairs(config.data, *words, config.max_text, out, log)
            lent = _lent(recipe)
            shape = config.shape(lent, len(pairs.words))
            if config.parallel.auto:
                config = settled(config, shape, device, log)
                recipe = replace(recipe, generator=config)
            if not generator.has_begun:
                _check_generator(config, shape, lent, pairs.words, device)
    return recipe, pictures, pairs


def _lent(recipe: Recipe) -> TokenizerConfig:
    """Return the shape of the image tokenizer that the generator's tokens are of."""
    if recipe.tokenizer:
        return recipe.tokenizer.model
    assert recipe.generator is not None
    return read_config(find_model(recipe.generator.image_tokenizer)).image_tokenizer


def _check_tokenizer(config: TokenizerRun, device: torch.device) -> None:
    config.loss.perceptual_loss()
    if config.refine_steps:
        lite0_loss(pooled=True)
    check_fits(config.loss, config.model)
    check_divides("pictures a step", config.loop.batch_size, config.loop.accumulate)
    if not config.decoder_only:
        check_memory("the image tokenizer", lambda: ImageTokenizer(config.model), device)
    if config.init is not None:
        _initial_tokenizer(config.init, config.model)


def _check_generator(
    config: GeneratorRun,
    shape: GeneratorConfig,
    lent: TokenizerConfig,
    words: TextTokenizer,
    device: torch.device,
) -> None:
    check_shares(config.loss, config.loop)
    config.parallel.check()
    shards, offload = config.parallel.shard_over or num_processes(), config.parallel.offload
    check_memory(
        "the generator",
        lambda: Generator(shape),
        device,
        shards=shards,
        offload=offload,
        copies=5 if config.lora is None else 1,
    )
    if config.end_to_end is not None:
        check_fits(config.end_to_end.loss, lent)
        config.end_to_end.loss.perceptual_loss()
    if config.init is not None:
        _check_start(find_model(config.init), shape, words)


def _begin(stage: Stage, config: TokenizerRun | GeneratorRun, data: str) -> bool:
    """Begin a stage in all processes; return whether it goes on from a checkpoint."""
    if is_first():
        stage.begin(config, data)
    meet()
    return stage.has_checkpoint


def _save_model(stage: Stage, step: int) -> None:
    """Write the model of a stage's last step, once, while the other processes wait."""
    if is_first():
        if getattr(stage.settings(), "lora", None) is not None:
            write_trained_adapter(stage, step, stage.adapter)
        save_model(stage.model, trained_model(stage, step))
    meet()


def _train_tokenizer(
    config: TokenizerRun, pictures: Pictures, stage: Stage, device: torch.device, log: TextIO
) -> None:
    resume = _begin(stage, config, pictures.digest)
    size, rejects = config.model.image_size, stage.folder / "rejects.jsonl"
    arrays_NYX3 = load_readable(pictures, size, config.data.max_rejects, rejects)
    say(f"tokenizer: {len(arrays_NYX3)} pictures", log)
    if rejects.exists():
        num = len(pictures.training) + len(pictures.rejects) - len(arrays_NYX3)
        say(f"left out: {num} pictures, see {rejects}", log)
    if pictures.others:
        say(f"left out, not pictures by their names: {tell(pictures.others)}", log)
    # Encoder and codes that stay are in no checkpoint.
    starts_from_model = config.init is not None and (config.decoder_only or not resume)
    init = _initial_tokenizer(config.init, config.model).to(device) if starts_from_model else None
    settings = (config.model, config.loss, config.codebook, config.augmentation, config.loop)
    shown_BYX3 = arrays_NYX3[:: max(1, len(arrays_NYX3) // NUM_SHOWN)][:NUM_SHOWN]
    if pictures.held_out:
        shown_BYX3 = load_pictures(pictures.held_out, size)
    alone = None
    if config.decoder_only:
        assert init is not None
        alone = _decoder_alone(config, init, arrays_NYX3, stage.folder / "tokens")
    job = TokenizerJob(*settings, arrays_NYX3, shown_BYX3, init, alone, device)
    optims = [config.optim, config.discriminator_optim][: len(job.turns)]
    train(job, config.loop, optims, stage.folder, resume=resume, out=log)


def _decoder_alone(
    config: TokenizerRun, init: ImageTokenizer, arrays_NYX3: NDArray[np.uint8], store: Path
) -> DecoderAlone:
    """Return which pictures have better tokens, any of all of them, and these tokens, from the store."""
    if config.refine_steps == 0:
        return DecoderAlone()
    N, bf16 = len(arrays_NYX3), config.loop.precision is TrainingPrecision.BF16
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
    return DecoderAlone(
        dict(zip(chosen_R.tolist(), tokens_RN.reshape(-1, grid, grid), strict=True))
    )


def _initial_tokenizer(init: str | None, config: TokenizerConfig) -> ImageTokenizer:
    """Load the tokenizer to go on from; it must have the recipe's shape."""
    folder = find_model(init)
    if read_config(folder).image_tokenizer != config:
        raise RunError(
            f"{folder} has no image tokenizer of this recipe's shape to start from: "
            "set the keys of tokenizer.model as its config.json has them"
        )
    return load_model(folder).image_tokenizer


def _train_generator(
    config: GeneratorRun,
    pairs: Pairs,
    lender: Path,
    stage: Stage,
    device: torch.device,
    log: TextIO,
) -> None:
    image_tokenizer = load_model(lender, device=device).image_tokenizer
    data, source, text_tokenizer = config.data, pairs.source, pairs.words
    digest = source.identity.sha256 if source else file_hash(Path(data.source) / "store.json")
    resume = _begin(stage, config, digest)
    store = find_store(data, pairs, image_tokenizer, config.max_text, stage.folder / "tokens")
    say(f"generator: {len(store)} pairs", log)
    if store.info.rejects:
        say(f"left out: {store.info.rejects} pairs, see {store.folder / 'rejects.jsonl'}", log)
    captions = texts_told(store, Kind.CAPTION, text_tokenizer)
    answers = texts_told(store, Kind.ANSWER, text_tokenizer) if config.loss.question_weight else {}
    if config.replay is not None:
        old, share = config.replay.data, config.replay.share
        known = Pairs(None if old.is_store else old.open(), text_tokenizer)
        folder = stage.folder / "replayed"
        replayed = find_store(old, known, image_tokenizer, config.max_text, folder)
        say(f"generator: {len(replayed)} pairs replayed, {share:.0%} of each batch", log)
        store = Mixture(store, replayed, share)
    grid = image_tokenizer.config.grid_size
    shape = config.shape(image_tokenizer.config, len(text_tokenizer))

    def decode(image_ids_BN: Tensor) -> list[Image.Image]:
        return to_pictures(image_tokenizer.decode(image_ids_BN.view(-1, grid, grid)))

    seed, end_to_end = config.loop.seed, None
    moves = (config.augmentation, config.prefix_augmentation)
    if config.end_to_end is not None or any(move != AS_THEY_ARE for move in moves):
        if source is None:
            raise RunError(f"{data.source} holds no pictures, which this run needs: name the pairs")
        pictures = load_pictures(rows_of(store, source), image_tokenizer.config.image_size)
    if config.end_to_end is not None:
        end_to_end = EndToEnd(config.end_to_end, shape, image_tokenizer, pictures, seed)

    def encoder(move: AugmentConfig) -> StepTokens | None:
        if move == AS_THEY_ARE:
            return None
        return partial(moved_tokens, image_tokenizer, pictures, seed, move)

    codebook_KD = image_tokenizer.quantizer.codebook_KD if config.share_codes else None
    bf16 = config.loop.precision is TrainingPrecision.BF16
    generator = build_generator(
        shape, config.parallel, device, bf16=bf16, codebook_KD=codebook_KD, lora=config.lora
    )
    if config.init is None and not resume:
        draw_weights(generator, config.loop.seed)
    job = GeneratorJob(
        generator,
        config.loss,
        config.loop,
        store,
        text_tokenizer,
        decode,
        end_to_end,
        encode_described=encoder(config.augmentation),
        encode_prefix=encoder(config.prefix_augmentation),
        device=device,
    )
    if config.init is not None and (config.lora is not None or not resume):
        _start_from(stage.base if resume else find_model(config.init), job, image_tokenizer, log)
    if is_first() and not (resume and stage.base.exists()):
        base = _base(config, image_tokenizer, text_tokenizer, captions, answers)
        save_model(stage.base, base)
    optims = [config.optim, config.discriminator_optim][: len(job.turns)]
    train(job, config.loop, optims, stage.folder, resume=resume, out=log)


def _base(
    config: GeneratorRun,
    image_tokenizer: ImageTokenizer,
    words: TextTokenizer,
    captions: Mapping[str, Collection[str]],
    answers: Mapping[str, Collection[str]],
) -> Model:
    """Return what of the model is known before it is trained; of an adapter, its base too.

    Args:
        captions, answers: by language, what it is trained to say.
    """
    latin_words = words.latin_words([*captions.get("zh", ()), *answers.get("zh", ())])
    base = Model(image_tokenizer, None, words, config.sampling)
    if config.init is None:
        return replace(
            base,
            latin_words=latin_words,
            languages=tuple(captions) or LANGUAGES,
            answer_languages=tuple(answers),
        )
    folder = find_model(config.init)
    earlier = read_config(folder)  # what an earlier model knows it goes on knowing
    return replace(
        base,
        generator=load_model(folder).generator if config.lora else None,
        latin_words=tuple(dict.fromkeys([*earlier.latin_words, *latin_words])),
        languages=tuple(dict.fromkeys([*earlier.languages, *captions])),
        answer_languages=tuple(dict.fromkeys([*earlier.answer_languages, *answers])),
        stored_as=DTYPES[earlier.dtype],
    )


def _check_start(folder: Path, shape: GeneratorConfig, words: TextTokenizer) -> ModelConfig:
    """Refuse an earlier stage whose weights would not fit, or whose words mean something else."""
    config = read_config(folder)
    if config.generator != shape:
        raise RunError(f"{folder} has no generator of this recipe's shape to start from")
    if config.text_tokenizer_fingerprint != words.fingerprint:
        raise RunError(f"{folder} was trained on another vocabulary")
    return config


def _start_from(
    folder: Path, job: GeneratorJob, image_tokenizer: ImageTokenizer, log: TextIO
) -> None:
    """Take over the weights of an earlier stage; its codes and words must mean the same."""
    config = _check_start(folder, job.generator.config, job.tokenizer)
    earlier = load_model(folder)
    if config.image_tokenizer_fingerprint != image_tokenizer.fingerprint():
        raise RunError(f"{folder} was trained on the codes of another image tokenizer")
    assert earlier.generator is not None  # `_check_start` has seen its shape
    with torch.no_grad():
        adapter = first_adapter(job.generator, job.loop.seed)
        fill(job.generator, [*earlier.generator.named_parameters(), *adapter])
        if job.end_to_end is None:
            return
        if earlier.reconstructor is not None:
            job.end_to_end.reconstructor.load_state_dict(earlier.reconstructor.state_dict())
        else:
            say(
                f"{folder} has no reconstructor, which so begins as the image tokenizer's decoder",
                log,
            )
