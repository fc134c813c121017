"""A trained model learns somebody's pairs: the run, what is counted of it, and what it did to the model.

| number | value | why |
| --- | --- | --- |
| pairs a step | 8, and 4 replayed | a few dozen pairs hold no more that differ |
| steps | 40 a pair, from 300 to 6,000 | each pair some hundred times where they are few, some dozen where many |
| rate | 2e-3 of an adapter, 2e-4 of all weights | ours; an adapter's is usually ten times the other |
| averages | the last 100 steps or so | runs are short |
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vilg.data.batches import choose_captions, padded
from vilg.data.pairs import DataError
from vilg.data.store import Store
from vilg.errors import require
from vilg.images import contact_sheet
from vilg.model.defaults import Decoder
from vilg.model.folder import Model, find_model, read_config
from vilg.model.generator import image_to_text_log_probs, text_to_image_log_probs
from vilg.model.lora import LoRAConfig
from vilg.progress import in_batches
from vilg.sampling.images import draw_images
from vilg.sampling.pixels import decode
from vilg.text import LANGUAGES
from vilg.training.generator_job import GeneratorLossConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.settings import GeneratorRun, Recipe, ReplayConfig

FEWEST_PAIRS = 2
NUM_OLD = 200  # pairs that tell what was forgotten
_NUM_PROMPTS, _NUM_SEEDS, _AT_A_TIME = 4, 4, 20


def finetune(
    base: str | None,
    data: DataConfig,
    num_pairs: int,
    lora: LoRAConfig | None = None,
    replay: ReplayConfig | None = None,
) -> Recipe:
    """Return a run that goes on from a model; vocabulary, shape and image tokenizer are the model's.

    Args:
        base: a folder, a hub id or a shipped name; None is the shipped model.
        num_pairs: what the length of the run is chosen by.
        lora: an adapter's size; None trains all weights.

    Raises:
        DataError: too few pairs.
        ModelError: no such model, or one that cannot draw.
    """
    if num_pairs < FEWEST_PAIRS:
        raise DataError(
            f"{data.source} has {num_pairs} pairs to learn from: give {FEWEST_PAIRS} or more"
        )
    folder = find_model(base)
    config = read_config(folder)
    shape, name = config.generator, str(base) if base else folder.name
    require(shape is not None, f"{folder} has no generator to go on from: name another model")
    assert shape is not None
    steps, rate = min(6000, max(300, 40 * num_pairs)), 2e-4 if lora is None else 2e-3
    return Recipe(
        generator=GeneratorRun(
            data=data,
            vocabulary=folder / "tokenizer.json",
            width=shape.width,
            num_heads=shape.num_heads,
            patterns=shape.patterns,
            max_text=shape.max_text,
            qk_norm=shape.qk_norm,
            image_tokenizer=name,
            init=name,
            lora=lora,
            replay=replay,
            sampling=replace(config.sampling, decoder=Decoder.TWO_STAGE),
            loss=GeneratorLossConfig(disturbed=0.5),
            loop=LoopConfig(
                num_steps=steps,
                batch_size=8 if replay is None else 12,
                log_every=50,
                show_every=max(100, steps // 5),
                save_every=100,
            ),
            optim=OptimConfig(
                peak_lr=rate, final_lr=rate / 10, warmup_steps=20, weight_decay=0.0, ema_decay=0.98
            ),
        )
    )


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log likelihoods of a token, in nats; an end token is one of its caption."""

    image_given_text: float
    text_given_image: float


@torch.inference_mode()
def likelihood(model: Model, store: Store, rows_S: np.ndarray) -> Likelihood:
    """Say how likely a model makes the pairs of some rows, each with one of its captions."""
    assert model.generator is not None and model.text_tokenizer is not None
    language_ids = [model.text_tokenizer.language_id(lang) for lang in LANGUAGES]
    images, texts = list[Tensor](), list[Tensor]()
    for part in in_batches(len(rows_S), _AT_A_TIME, "likelihoods"):
        text_B, lang_B = choose_captions(store, rows_S[part], 0, 0, 1)
        ids_BM, valid_BM = padded(store, text_B)
        captions = [ids[valid].tolist() for ids, valid in zip(ids_BM, valid_BM, strict=True)]
        ids_BN = torch.from_numpy(store.image_ids(rows_S[part])).to(model.generator.device)
        images.append(text_to_image_log_probs(model.generator, captions, ids_BN).flatten())
        langs = [language_ids[lang] for lang in lang_B]
        found_BM, valid = image_to_text_log_probs(model.generator, ids_BN, langs, captions)
        texts.append(found_BM[valid])
    return Likelihood(*(-float(torch.cat(found).double().mean()) for found in (images, texts)))


def some_rows(store: Store, num: int = NUM_OLD) -> np.ndarray:
    """Return rows evenly spread over a store, all where it has no more."""
    return np.unique(np.linspace(0, len(store) - 1, min(num, len(store))).round().astype(np.int64))


def before_and_after(before: Model, after: Model, prompts: Sequence[str]) -> Image.Image:
    """Lay what two models draw side by side: a row for each prompt, left before and right after, the same seeds."""
    rows: list[list[Image.Image]] = [[] for _ in prompts]
    for model in (before, after):
        assert model.generator is not None and model.text_tokenizer is not None
        longest = model.generator.config.max_text - 1
        texts = [model.text_tokenizer.read(prompt, longest) for prompt in prompts]
        seeds = [*range(_NUM_SEEDS)] * len(prompts)
        settings = replace(model.sampling, decoder=Decoder.TWO_STAGE, best_of=1)
        drawn = draw_images(model.generator, texts, seeds, settings)
        pictures = decode(model.image_tokenizer, drawn.image_ids_BN)
        for i, row in enumerate(rows):
            row += pictures[i * _NUM_SEEDS : (i + 1) * _NUM_SEEDS]
    return contact_sheet(rows)


def captions_of(store: Store, model: Model) -> list[str]:
    """Return one caption each of a few pairs, to draw from."""
    assert model.text_tokenizer is not None
    text_R, _ = choose_captions(store, some_rows(store, _NUM_PROMPTS), 0, 0, 1)
    tokens = store.tokens_of(text_R[text_R >= 0])
    return list(dict.fromkeys(model.text_tokenizer.decode(each.tolist()) for each in tokens))


def card(run: GeneratorRun, num_pairs: int, lost: str, commands: Sequence[str]) -> str:
    """Return the model card of what was learnt."""
    what = "all weights"
    if run.lora is not None:
        what = f"an adapter (LoRA) of rank {run.lora.rank}, alpha {run.lora.alpha:g}"
    lines = "\n".join(commands)
    return f"""# Fine-tuned from {run.init}

| | |
|---|---|
| learnt | {what} |
| pairs | {num_pairs} of {Path(run.data.source).name} |
| steps | {run.loop.num_steps} of {run.loop.batch_size} pairs, {run.optim.peak_lr:g} at most |
| replayed | {f"{run.replay.share:.0%} of each batch" if run.replay else "nothing"} |
| old pairs | {lost} |

```
{lines}
```

Rights to what it draws follow those of the pictures it was trained on, and of its base.
"""
