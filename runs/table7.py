"""Measure the cells of Table 7 on the models that table7.sh has trained, and draw their contact sheet.

Captions of unseen combinations, languages in turn, two drawings each at temperature 1 without guidance,
with the same seeds in every cell. Kernel distance to the captions' own pictures by the judge; PSNR where
the tokens are those of the pictures themselves (gold). Means over the seeds of training with the 95%
interval of Student's t, which says nothing about other captions: for that, each cell has the distance's
own standard error over halves of them. Cells are compared in pairs, seed by seed.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from seeds import SEEDS, command_line, interval
from torch import Tensor

from vilg.api import Vilg
from vilg.data.pictures import load_pictures
from vilg.evaluation.judge import Judge, load_judge
from vilg.evaluation.likeness import kernel_distance
from vilg.images import contact_sheet, to_arrays
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model, load_model
from vilg.model.generator import pad_texts, text_to_image_states
from vilg.sampling.images import Drawn
from vilg.shipped.emoji import EMOJI
from vilg.shipped.recipes import EMOJI_GROUPS
from vilg.shipped.reconstruction import psnr_db
from vilg.shipped.samples import Settings, read_splits
from vilg.text import LANGUAGES
from vilg.tokenizer.tokens import encoded_tokens

DRAWINGS = 2  # a caption
SHOWN = 12
BATCH = 32
GENERATORS = {
    "two-stage G": "table7",
    "e2e G": "table7_e2e",
    "e2e G longer": "table7_e2e_longer",
    "adversarial G": "table7_adversarial",
}
PAIRS = (
    # What the paper's table says: the generator gains, then the reconstructor does.
    ("e2e G + two-stage R", "two-stage G + two-stage R"),
    ("e2e G + own R", "e2e G + two-stage R"),
    # What it leaves open: is it the end-to-end training, or a reconstructor that has learnt on?
    ("e2e G + own R", "e2e G + further R"),
    ("gold + e2e R", "gold + further R"),
    ("gold + further R", "gold + two-stage R"),
    # With a discriminator and without, at equal steps.
    ("adversarial G + own R", "e2e G longer + own R"),
    ("gold + adversarial R", "gold + e2e R longer"),
)

Arrays = NDArray[np.uint8]


@torch.inference_mode()
def decoded(model: Model, ids_BN: Tensor) -> Arrays:
    """Return the pictures that a two-stage decoder makes of tokens."""
    grid = model.image_tokenizer.config.grid_size
    parts = [
        to_arrays(model.image_tokenizer.decode(part.view(-1, grid, grid)))
        for part in ids_BN.split(BATCH)
    ]
    return np.concatenate(parts)


def pictures(vilg: Vilg, drawn: Drawn) -> Arrays:
    return np.stack([np.array(picture) for picture in vilg.pictures(drawn)])


@torch.inference_mode()
def reconstructed(vilg: Vilg, prompts: list[str], ids_BN: Tensor) -> Arrays:
    """Return the pictures that an end-to-end reconstructor makes of given tokens under their prompts."""
    arrays = []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        texts = [vilg.encode_text(prompt) for prompt in prompts[part]]
        states_BNC = text_to_image_states(vilg.generator, *pad_texts(texts), ids_BN[part])[:, 1:]
        arrays.append(pictures(vilg, Drawn(ids_BN[part], states_BNC)))
    return np.concatenate(arrays)


def load(runs: Path, recipe: str, seed: int) -> Vilg:
    """Load a model that samples as the paper does, whatever its own settings are."""
    model = load_model(runs / f"{recipe}-{seed}" / "generator" / "model")
    decoder = Decoder.END_TO_END if model.reconstructor else Decoder.TWO_STAGE
    return Vilg(replace(model, sampling=SamplingConfig(decoder=decoder)))


def cells(runs: Path, seed: int, prompts: list[str], gold_BN: Tensor) -> dict[str, Arrays]:
    """Return the pictures of every cell for one seed of training."""
    vilg = {name: load(runs, recipe, seed) for name, recipe in GENERATORS.items()}
    further = load_model(runs / f"table7_decoder-{seed}" / "tokenizer" / "model")
    two_stage = vilg["two-stage G"].model
    tokenizers = {
        m.image_tokenizer.fingerprint() for m in (further, *(v.model for v in vilg.values()))
    }
    assert len(tokenizers) == 1, "all cells share their tokens"

    repeated = prompts * DRAWINGS
    drawn = {name: v.draw(repeated, range(len(repeated))) for name, v in vilg.items()}
    made = {}
    for name in ("two-stage G", "e2e G", "adversarial G"):
        made[f"{name} + two-stage R"] = decoded(two_stage, drawn[name].image_ids_BN)
    for name in ("two-stage G", "e2e G"):
        made[f"{name} + further R"] = decoded(further, drawn[name].image_ids_BN)
    for name in ("e2e G", "e2e G longer", "adversarial G"):
        made[f"{name} + own R"] = pictures(vilg[name], drawn[name])
    made["gold + two-stage R"] = decoded(two_stage, gold_BN)
    made["gold + further R"] = decoded(further, gold_BN)
    made["gold + e2e R"] = reconstructed(vilg["e2e G"], prompts, gold_BN)
    made["gold + e2e R longer"] = reconstructed(vilg["e2e G longer"], prompts, gold_BN)
    made["gold + adversarial R"] = reconstructed(vilg["adversarial G"], prompts, gold_BN)
    return made


def score(judge: Judge, originals: Arrays, original_SF: NDArray, made: Arrays, what: str) -> dict:
    """Return distance, its standard error and PSNR, means over the drawings of a caption."""
    found = []
    for drawing in np.split(made, len(made) // len(originals)):
        distance = kernel_distance(judge.features(drawing, what), original_SF, 0)
        assert distance is not None
        psnr = float(psnr_db(originals, drawing).mean())
        error = 1000 * distance["standard_error"]
        found.append({"distance": 1000 * distance["mean"], "error": error, "psnr": psnr})
    return {name: statistics.mean(row[name] for row in found) for name in found[0]}


def table(judge: Judge, originals: Arrays, by_seed: list[dict[str, Arrays]]) -> dict[str, dict]:
    original_SF = judge.features(originals, "originals")
    found = {
        name: [
            score(judge, originals, original_SF, made[name], f"{name}, seed {seed}")
            for seed, made in zip(SEEDS, by_seed, strict=True)
        ]
        for name in by_seed[0]
    }
    rows = {}
    for name, scores in found.items():
        rows[name] = {
            "kernel_distance_x1000": interval([s["distance"] for s in scores]),
            "standard_error_over_captions": statistics.mean(s["error"] for s in scores),
        }
        if name.startswith("gold"):
            rows[name]["psnr_db"] = interval([s["psnr"] for s in scores])
    less = {}
    for a, b in PAIRS:
        pairs = zip(found[a], found[b], strict=True)
        less[f"{a} against {b}"] = interval([y["distance"] - x["distance"] for x, y in pairs])
    return {"cells": rows, "distance_saved_x1000": less}


def main() -> None:
    options = command_line(__doc__)
    splits = read_splits(EMOJI, Settings(only=EMOJI_GROUPS))
    samples = splits.chosen["unseen_combination"]
    prompts = [
        sample.captions[LANGUAGES[i % len(LANGUAGES)]][0] for i, sample in enumerate(samples)
    ]
    tokenizer = load(options.runs, "table7", SEEDS[0]).image_tokenizer
    originals = load_pictures(samples, tokenizer.config.image_size)
    gold_BN = torch.from_numpy(encoded_tokens(tokenizer, samples).astype(int))
    by_seed = [cells(options.runs, seed, prompts, gold_BN) for seed in SEEDS]
    report = {"captions": len(samples), **table(load_judge(), originals, by_seed)}
    text = json.dumps(report, indent=1)
    (options.out / "table7.json").write_text(text + "\n", encoding="utf-8")
    rows = [originals, *by_seed[0].values()]
    sheet = [[Image.fromarray(array) for array in row[:SHOWN]] for row in rows]
    contact_sheet(sheet, scale=1).save(options.out / "table7.png")
    print(text)


if __name__ == "__main__":
    main()
