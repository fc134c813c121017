"""Measure the cells of Table 7 on the models that table7.sh has trained, and draw their contact sheet.

Captions of unseen combinations, languages in turn, one drawing each at temperature 1 without guidance,
with the same seeds in every cell. Kernel distance to the captions' own pictures by the judge; PSNR where
the tokens are those of the pictures themselves (gold). Means over the seeds of training, with the 95%
interval of Student's t.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from seeds import SEEDS, interval
from torch import Tensor

from vilg.evaluation.judge import Judge, load_judge
from vilg.evaluation.likeness import kernel_distance
from vilg.evaluation.samples import Settings, read_splits
from vilg.evaluation.tokenizer import psnr_db
from vilg.images import contact_sheet, to_arrays
from vilg.model.folder import Model, SamplingConfig, load_model
from vilg.model.generator import text_to_image_states
from vilg.pipeline import Vilg
from vilg.recipes import EMOJI, EMOJI_GROUPS
from vilg.sampling.images import Drawn
from vilg.text import LANGUAGES
from vilg.training.inputs import load_pictures, tokenise

SHOWN = 12
BATCH = 32

Arrays = NDArray[np.uint8]


@torch.inference_mode()
def decoded(model: Model, ids_BN: Tensor) -> Arrays:
    grid = model.image_tokenizer.config.grid_size
    parts = [
        to_arrays(model.image_tokenizer.decode(part.view(-1, grid, grid)))
        for part in ids_BN.split(BATCH)
    ]
    return np.concatenate(parts)


@torch.inference_mode()
def reconstructed(vilg: Vilg, prompts: list[str], ids_BN: Tensor) -> Arrays:
    """Return the pictures that the end-to-end reconstructor makes of tokens under their prompts."""
    arrays = []
    for first in range(0, len(prompts), BATCH):
        part = slice(first, first + BATCH)
        texts = [vilg.encode_text(prompt) for prompt in prompts[part]]
        states_BNC = text_to_image_states(vilg.generator, texts, ids_BN[part])[:, 1:]
        arrays += [np.array(p) for p in vilg.pictures(Drawn(ids_BN[part], states_BNC))]
    return np.stack(arrays)


def cells(runs: Path, seed: int, prompts: list[str], gold_BN: Tensor) -> dict[str, Arrays]:
    """Return the pictures of every cell for one seed of training."""
    two_stage, end_to_end, adversarial = (
        plain(load_model(runs / f"{name}-{seed}" / "generator" / "model"))
        for name in ("table7", "table7_e2e", "table7_adversarial")
    )
    longer = load_model(runs / f"table7_decoder-{seed}" / "tokenizer" / "model")
    two_stage_BN, end_to_end_BN, adversarial_BN = (
        vilg.draw(prompts, range(len(prompts))).image_ids_BN
        for vilg in (two_stage, end_to_end, adversarial)
    )
    plain_decoder = two_stage.model
    return {
        "two-stage G + R": decoded(plain_decoder, two_stage_BN),
        "two-stage G + R trained longer": decoded(longer, two_stage_BN),
        "e2e G + two-stage R": decoded(plain_decoder, end_to_end_BN),
        "e2e G + R trained longer": decoded(longer, end_to_end_BN),
        "e2e G + e2e R": reconstructed(end_to_end, prompts, end_to_end_BN),
        "adversarial e2e G + R": reconstructed(adversarial, prompts, adversarial_BN),
        "gold + two-stage R": decoded(plain_decoder, gold_BN),
        "gold + R trained longer": decoded(longer, gold_BN),
        "gold + e2e R": reconstructed(end_to_end, prompts, gold_BN),
        "gold + adversarial e2e R": reconstructed(adversarial, prompts, gold_BN),
    }


def plain(model: Model) -> Vilg:
    """Return a model that samples as the paper does, whatever its own settings are."""
    return Vilg(replace(model, sampling=SamplingConfig()))


def scores(judge: Judge, originals: Arrays, by_seed: list[dict[str, Arrays]]) -> dict[str, dict]:
    original_SF = judge.features(originals, "originals judged")
    table: dict[str, dict] = {}
    for name in by_seed[0]:
        distances, psnr = [], []
        for seed, made in zip(SEEDS, by_seed, strict=True):
            features_SF = judge.features(made[name], f"{name}, seed {seed}")
            distance = kernel_distance(features_SF, original_SF, 0)
            assert distance is not None
            distances.append(1000 * distance["mean"])
            psnr.append(float(psnr_db(originals, made[name]).mean()))
        table[name] = {"kernel_distance_x1000": interval(distances), "by_seed": distances}
        if name.startswith("gold"):
            table[name]["psnr_db"] = interval(psnr)
    first = table["two-stage G + R"]["by_seed"]
    for row in table.values():
        pairs = zip(row["by_seed"], first, strict=True)
        row["less_than_two_stage_x1000"] = interval([b - a for a, b in pairs])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    splits = read_splits(EMOJI, Settings(groups=EMOJI_GROUPS))
    samples = splits.chosen["unseen_combination"]
    prompts = [
        sample.captions[LANGUAGES[i % len(LANGUAGES)]][0] for i, sample in enumerate(samples)
    ]
    tokenizer = load_model(options.runs / "table7-0" / "generator" / "model").image_tokenizer
    originals = load_pictures(samples, tokenizer.config.image_size)
    gold_BN = torch.from_numpy(tokenise(tokenizer, samples).astype(int))
    by_seed = [cells(options.runs, seed, prompts, gold_BN) for seed in SEEDS]
    table = {"num": len(samples), "cells": scores(load_judge(), originals, by_seed)}
    report = json.dumps(table, indent=1)
    (options.out / "table7.json").write_text(report + "\n", encoding="utf-8")
    rows = [originals, *by_seed[0].values()]
    pictures = [[Image.fromarray(array) for array in row[:SHOWN]] for row in rows]
    contact_sheet(pictures, scale=1).save(options.out / "table7.png")
    print(report)


if __name__ == "__main__":
    main()
