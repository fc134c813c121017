"""Toy jobs that train in a blink, and ways to break them off and compare them."""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from vilg.data.store import Kind, Rows, Store, StoreInfo, Writer
from vilg.device import HOST
from vilg.images import to_array
from vilg.model.generator import GeneratorConfig
from vilg.model.lora import LoRAConfig
from vilg.model.patterns import paper_patterns
from vilg.parallel import WHOLE, Share
from vilg.text import LANGUAGES, TextTokenizer
from vilg.tokenizer.codebooks import CodebookConfig, LearningRule
from vilg.tokenizer.discriminator import DiscriminatorConfig
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.augment import AugmentConfig
from vilg.training.checkpoint import TrainState
from vilg.training.end_to_end import EndToEnd, EndToEndConfig
from vilg.training.generator_job import GeneratorJob, GeneratorLossConfig
from vilg.training.inputs import moved_tokens
from vilg.training.loop import Job, LoopConfig, TrainingPrecision, train
from vilg.training.optim import OptimConfig
from vilg.training.parallelize import ParallelConfig, build_generator, draw_weights
from vilg.training.picture_loss import PictureLossConfig
from vilg.training.tokenizer_job import DecoderAlone, TokenizerJob

PLAIN = ParallelConfig()
JOBS = ("tokenizer", "adversarial", "gumbel", "dvae", "generator", "end_to_end", "lora")
OPTIM = OptimConfig(peak_lr=1e-2, final_lr=1e-4, warmup_steps=3, ema_decay=0.9)
VOCABULARY = TextTokenizer("红苹果青梨，扁平风格", [])
SMALL_VQGAN = VQGANConfig(
    image_size=16,
    channels=8,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    latent_channels=8,
    num_codes=32,
    code_dim=4,
    norm_groups=4,
)
SMALL_DVAE = DVAEConfig(
    image_size=16, channels=8, channel_multipliers=(1, 2), num_blocks=1, num_codes=16, code_dim=4
)
SMALL_DISCRIMINATOR = DiscriminatorConfig(channels=4, num_layers=1, norm_groups=4)
SMALL_GENERATOR = GeneratorConfig(
    width=16,
    num_heads=2,
    patterns=paper_patterns(3),
    grid_height=3,
    grid_width=3,
    num_codes=12,
    vocabulary_size=len(VOCABULARY),
    max_text=12,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Toys are faster so, and their sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class ToyPair:
    """A picture's tokens, and its texts in tokens by language; of a question its answers too."""

    image_ids: NDArray[np.uint16]
    captions: dict[str, list[int]]
    prompts: dict[str, list[list[int]]]
    questions: tuple[tuple[str, list[int], list[list[int]]], ...] = ()


def toy_pairs(number: int) -> list[ToyPair]:
    """Pairs of random image tokens and short texts; every other one has further prompts."""
    rng = np.random.default_rng(3)

    def text() -> list[int]:
        return rng.integers(262, len(VOCABULARY), rng.integers(1, 9)).tolist()

    return [
        ToyPair(
            rng.integers(0, SMALL_GENERATOR.num_codes, 9).astype(np.uint16),
            {"zh": text(), "en": text()},
            {lang: [text() for _ in range(3 * (i % 2))] for lang in ("zh", "en")},
        )
        for i in range(number)
    ]


def asked_pairs(number: int) -> list[ToyPair]:
    """The same, of which two in three have questions, one of them without an answer, and some nothing else."""
    rng = np.random.default_rng(4)

    def text() -> list[int]:
        return rng.integers(262, len(VOCABULARY), rng.integers(1, 9)).tolist()

    def questions() -> tuple[tuple[str, list[int], list[list[int]]], ...]:
        return (
            ("zh", text(), []),
            ("zh", text(), [text()]),
            ("en", text(), [text(), text()]),
            ("en", text(), [text()]),
        )

    return [
        replace(
            pair, questions=questions(), **({"captions": {}, "prompts": {}} if i % 3 == 2 else {})
        )
        if i % 3
        else pair
        for i, pair in enumerate(toy_pairs(number))
    ]


def toy_store(pairs: Sequence[ToyPair]) -> Store:
    """Write pairs into a store that goes away with the interpreter."""
    folder = TemporaryDirectory(prefix="toy-store-")
    _FOLDERS.append(folder)
    texts = [
        [(LANGUAGES.index(lang), Kind.CAPTION, tokens) for lang, tokens in pair.captions.items()]
        + [
            (LANGUAGES.index(lang), Kind.PROMPT, tokens)
            for lang, prompts in pair.prompts.items()
            for tokens in prompts
        ]
        + [
            (LANGUAGES.index(lang), kind, tokens)
            for lang, question, answers in pair.questions
            for kind, tokens in (
                (Kind.QUESTION, question),
                *((Kind.ANSWER, answer) for answer in answers),
            )
        ]
        for pair in pairs
    ]
    writer = Writer(Path(folder.name))
    image_ids_SN = np.stack([pair.image_ids for pair in pairs])
    writer.append(Rows([str(i) for i in range(len(pairs))], image_ids_SN, texts))
    writer.close(
        partial(
            StoreInfo,
            grid=(3, 3),
            image_tokenizer="toy",
            text_tokenizer=VOCABULARY.fingerprint,
            max_text=SMALL_GENERATOR.max_text,
            rejects=0,
        )
    )
    return Store(Path(folder.name))


_FOLDERS: list[TemporaryDirectory[str]] = []


def generator_job(
    config: GeneratorConfig,
    loss: GeneratorLossConfig,
    loop: LoopConfig,
    pairs: Sequence[ToyPair],
    *others: Any,
    parallel: ParallelConfig = PLAIN,
    codebook_KD: Tensor | None = None,
    lora: LoRAConfig | None = None,
    **more: Any,
) -> GeneratorJob:
    """Build a generator's job as a run does it, on pairs that the tests find as `job.pairs`."""
    bf16 = loop.precision is TrainingPrecision.BF16
    device = more.get("device", HOST)
    generator = build_generator(
        config, parallel, device, bf16=bf16, codebook_KD=codebook_KD, lora=lora
    )
    draw_weights(generator, loop.seed)
    job = GeneratorJob(generator, loss, loop, toy_store(pairs), *others, **more)
    job.pairs = pairs
    return job


def draw_tokens(image_ids_BN: Tensor) -> list[Image.Image]:
    """Show tokens as grey squares: the decoder of a generator that has no pictures."""
    grids = image_ids_BN.view(-1, 3, 3).numpy().astype(np.uint8) * 20
    return [Image.fromarray(grid).convert("RGB") for grid in grids]


TOKENIZERS = {
    "tokenizer": (
        SMALL_VQGAN,
        PictureLossConfig(),
        CodebookConfig(decay=0.7, restart_below=0.5),
    ),
    "adversarial": (
        SMALL_VQGAN,
        PictureLossConfig(adversarial=0.8, adversarial_from=1, discriminator=SMALL_DISCRIMINATOR),
        CodebookConfig(rule=LearningRule.GRADIENT, decay=0.7, restart_below=0.5),
    ),
    "gumbel": (  # the quantizer of `vqgan_f8_8192`, with its straight-through gradient
        replace(SMALL_VQGAN, quantizer=QuantizerKind.GUMBEL),
        PictureLossConfig(l2=0.0),
        CodebookConfig(straight_through=True, temperature_steps=10, kl_steps=1),
    ),
    "dvae": (
        SMALL_DVAE,
        PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0),
        CodebookConfig(temperature_steps=10, kl_steps=5),
    ),
}


TOKENIZER_3X3 = replace(SMALL_VQGAN, image_size=6)
R1 = PictureLossConfig(
    adversarial=0.8, adversarial_from=1, r1_penalty=2.0, discriminator=SMALL_DISCRIMINATOR
)


def toy_pictures(side: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, side, side, 3), dtype=np.uint8)


def reconstructing(
    loss: PictureLossConfig, detach_states: bool, config: TokenizerConfig = TOKENIZER_3X3
) -> EndToEnd:
    """A reconstructor of 6x6 pixels from the states of 3x3 tokens."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokenizer = ImageTokenizer(config)
    settings = EndToEndConfig(loss=loss, detach_states=detach_states)
    return EndToEnd(settings, SMALL_GENERATOR, tokenizer, toy_pictures(), seed=3)


def make_job(
    kind: str, loop: LoopConfig, parallel: ParallelConfig = PLAIN
) -> TokenizerJob | GeneratorJob:
    """Build one of the jobs; 7 samples, so that batches of 4 straddle epochs.

    Codes die and restart, captions are dropped and replaced: all that could differ on resume does.
    """
    shift = AugmentConfig(max_shift=2, recolour=0.5)
    if kind == "decoder":
        pictures = toy_pictures(16)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            init = ImageTokenizer(SMALL_VQGAN)
        tokens = np.random.default_rng(1).integers(0, 32, (3, 8, 8), np.uint16)
        alone = DecoderAlone(dict(zip((1, 4, 5), tokens, strict=True)))
        return TokenizerJob(
            SMALL_VQGAN, PictureLossConfig(), CodebookConfig(), shift, loop, pictures, pictures[:2],
            init=init, alone=alone,
        )  # fmt: skip
    if kind in TOKENIZERS:
        config, loss, codebook = TOKENIZERS[kind]
        pictures = toy_pictures(16)
        return TokenizerJob(config, loss, codebook, shift, loop, pictures, pictures[:2])
    mixed = GeneratorLossConfig(
        caption_drop=0.3, prompt_share=0.5, image_to_text_share=0.5, texts_per_picture=2
    )
    pairs = asked_pairs(7) if kind == "questions" else toy_pairs(7)
    config = replace(TOKENIZER_3X3, num_codes=SMALL_GENERATOR.num_codes)
    e2e = reconstructing(R1, False, config)
    if kind == "end_to_end":
        return generator_job(
            SMALL_GENERATOR, mixed, loop, pairs, VOCABULARY, draw_tokens, e2e, parallel=parallel
        )
    moves = AugmentConfig(max_shift=1, flip=False, noise=30)
    encode = partial(moved_tokens, e2e.image_tokenizer, e2e.pictures_SYX3, loop.seed, moves)
    codebook_KD = e2e.image_tokenizer.quantizer.codebook_KD if kind == "shared_codes" else None
    return generator_job(
        SMALL_GENERATOR,
        mixed,
        loop,
        pairs,
        VOCABULARY,
        draw_tokens,
        encode_prefix=encode,
        parallel=parallel,
        codebook_KD=codebook_KD,
        lora=LoRAConfig(rank=2) if kind == "lora" else None,
    )


def loss_of(
    job: TokenizerJob | GeneratorJob, step: int, share: Share = WHOLE
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of all that a job's first turn minimises at a step, and all values of it."""
    found = [computed for loss in job.turns[0].losses if (computed := loss(step, share))]
    total = torch.stack([loss for loss, _ in found]).sum()
    return total, {name: value for _, values in found for name, value in values.items()}


def forking() -> ForkServerContext:
    """Return how processes are started: forked from a server that has imported everything and run nothing.

    Not from pytest, whose threads a fork would lose. An optimizer's first step imports torch._dynamo.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


class BrokenOff(Exception):
    """Stands for whatever ends a run before its time."""


def break_off() -> None:
    raise BrokenOff


class Until:
    """A job that goes on as it is until a certain step, and then does something else."""

    def __init__(self, job: Job, step: int, then: Callable[[], Any] = break_off):
        self.job, self.module, self.step, self.then = job, job.module, step, then
        first, *others = job.turns
        self.turns = [replace(first, losses=[self.loss, *first.losses[1:]]), *others]

    def loss(self, step: int, share: Share) -> tuple[Tensor, dict[str, Tensor]] | None:
        if step == self.step:
            self.then()
        return self.job.turns[0].losses[0](step, share)

    def alarm(self, values: dict[str, float]) -> str | None:
        return self.job.alarm(values)

    def after_step(self, step: int) -> dict[str, Tensor]:
        return self.job.after_step(step)

    def show(self, step: int, folder: Path) -> None:
        self.job.show(step, folder)


def train_until(
    step: int,
    kind: str,
    loop: LoopConfig,
    folder: Path,
    resume: bool,
    parallel: ParallelConfig = PLAIN,
) -> None:
    """Train and break off when the step would begin."""
    job = Until(make_job(kind, loop, parallel), step)
    with pytest.raises(BrokenOff):
        train(job, loop, [OPTIM] * len(job.turns), folder, resume=resume, out=io.StringIO())


def finish(
    kind: str,
    loop: LoopConfig,
    folder: Path,
    resume: bool = False,
    parallel: ParallelConfig = PLAIN,
) -> TrainState:
    """Train to the end."""
    job = make_job(kind, loop, parallel)
    return train(job, loop, [OPTIM] * len(job.turns), folder, resume=resume, out=io.StringIO())


def log_records(folder: Path) -> list[dict[str, Any]]:
    """Read a log without what depends on the machine's speed."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record in records:
        assert record.pop("time").keys() == {"pairs_per_s"}
    return records


def tensors(state: TrainState) -> dict[str, Tensor]:
    """Everything that a run has learnt."""
    return {
        **{f"module {name}": value for name, value in state.module.state_dict().items()},
        **{f"average {name}": value for name, value in state.averages.items()},
        **{
            f"moment {turn} {i} {name}": value
            for turn, optimizer in enumerate(state.optimizers)
            for i, part in optimizer.state_dict()["state"].items()
            for name, value in part.items()
        },
    }


def assert_equal_states(found: TrainState, expected: TrainState) -> None:
    """Compare bit for bit."""
    assert found.step == expected.step
    a, b = tensors(found), tensors(expected)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, by whatever number of processes it was written."""
    reader = HuggingFaceStorageReader(str(path))
    kept = reader.read_metadata().state_dict_metadata
    found = {name: torch.empty(t.size, dtype=t.properties.dtype) for name, t in kept.items()}
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        load_shards(found, storage_reader=reader, no_dist=True)
    return found


def checkpoint_bytes(folder: Path) -> dict[str, bytes]:
    """Read the newest checkpoint of a run, bit for bit; only the order of its files' notes differs by chance."""
    newest = max((folder / "checkpoints").iterdir())
    tensors = read_checkpoint(newest)
    return {name: value.numpy().tobytes() for name, value in tensors.items()} | {
        "name": newest.name.encode()
    }


def picture_bytes(path: Path) -> bytes:
    """Return the pixels of a sample sheet."""
    return to_array(Image.open(path)).tobytes()
