"""A suite of scores from end to end: model and data in, a JSON file and a table out.

vilg evaluate generator --model runs/emoji/generator/model --out scores/
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vilg.api import Vilg
from vilg.device import AUTO, choose_device, moved
from vilg.errors import VilgError
from vilg.evaluation.judge import load_judge
from vilg.files import write_whole
from vilg.model.folder import find_model, load_model, weights_hash
from vilg.progress import in_batches
from vilg.sampling.precision import Precision, choose_precision
from vilg.shipped.exact_match import score_captions
from vilg.shipped.likelihoods import score_likelihoods
from vilg.shipped.manifest import manifest
from vilg.shipped.names import score_top1
from vilg.shipped.reconstruction import reconstruction_sheet, score_tokenizer
from vilg.shipped.retrieval import score_drawing
from vilg.shipped.samples import Settings, Splits, read_splits
from vilg.shipped.score_tables import drawing_tables, generator_tables, tokenizer_tables
from vilg.tokenizer.refine import refining_encoder
from vilg.tokenizer.tokens import encoded_tokens

SUITES = ("tokenizer", "generator", "drawing")

_BATCH = 50
_DIGITS = 6  # what is written; the last digits of a float depend on the number of threads


class EvaluationError(VilgError):
    """An unknown suite, settings that it has no use for, or a folder that cannot be written."""


def evaluate(
    suite: str,
    model: str | None,
    data: Path,
    out: Path,
    settings: Settings,
    device: str | torch.device = AUTO,
) -> None:
    """Run a suite, write OUT/SUITE.json and print its tables.

    The file holds a manifest and scores, neither time nor path: a second run writes the same bytes.
    The suite "tokenizer" also writes OUT/tokenizer.png, unseen concepts over their reconstructions.

    Args:
        suite: "tokenizer", "generator" or "drawing".
        model: folder or hub id; None is the shipped model.
        data: folder of a data set.
        device: as `choose_device` has it.

    Raises:
        EvaluationError: an unknown suite, settings that it has no use for, or a folder that cannot be made.
        SettingError: tokens to be refined of a tokenizer without nearest codes.
        DeviceError: no such device here.
        PrecisionError: bf16 or int8 on a processor or device that has no instructions for it.
        ModelError, DataError: from reading the model and the data.
        PerceptualError: tokens to be refined, without the packages of the extra `train`.
        MissingExtra: a suite with the judge, without the packages of the extra `eval`.
    """
    _check(suite, settings)
    place = choose_device(device)
    given = (
        Precision.FP32 if suite == "tokenizer" and not settings.precision else settings.precision
    )
    precision = choose_precision(given, place)
    settings = replace(settings, precision=precision)
    folder = find_model(model)
    weights = weights_hash(folder)
    # Before the data is read: a missing generator, or a missing package, is said at once.
    vilg = (
        None
        if suite == "tokenizer"
        else Vilg.from_pretrained(folder, device=place, dtype=precision)
    )
    loaded = vilg.model if vilg else load_model(folder, device=place)
    judge = load_judge(place) if suite != "generator" else None
    encode = refining_encoder(
        loaded.image_tokenizer, settings.refine_steps, bf16=precision is Precision.BF16
    )
    measured = read_splits(data, settings)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"cannot write to {out}: {error.strerror}") from error
    if vilg is None:
        assert judge
        scores = score_tokenizer(
            loaded.image_tokenizer, encode, judge, measured, settings.subset_seed
        )
        text = tokenizer_tables(scores)
        sheet = reconstruction_sheet(loaded.image_tokenizer, encode, measured)
        sheet.save(out / "tokenizer.png")
    elif judge:
        num_prompts = settings.limit or settings.num_drawn
        scores = score_drawing(vilg, judge, measured, num_prompts, settings.shuffle_seed)
        text = drawing_tables(scores)
    else:
        scores = score_generator(vilg, measured, settings)
        text = generator_tables(scores)
    about = manifest(suite, loaded, weights, judge, data, measured, settings, place)
    content = {"manifest": about, "scores": _rounded(scores)}
    write_whole(out / f"{suite}.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print(text, end="")


def _check(suite: str, settings: Settings) -> None:
    """Refuse what does not go together, before anything is read."""
    steps, precision = settings.refine_steps, settings.precision
    if suite not in SUITES:
        raise EvaluationError(f"no suite is called {suite!r}; the suites are {', '.join(SUITES)}")
    if settings.limit is not None and settings.limit < 1:
        raise EvaluationError(f"--limit must be at least 1 picture, not {settings.limit}")
    is_rounded = precision is Precision.INT8 or (precision is Precision.BF16 and not steps)
    if suite == "tokenizer" and is_rounded:
        raise EvaluationError(
            "a tokenizer is measured in fp32: leave the precision out (bf16 is for refined tokens)"
        )
    if settings.splits and suite != "tokenizer":
        raise EvaluationError(f"the suite {suite} compares splits: leave splits out")
    if steps and suite != "tokenizer":
        raise EvaluationError(f"the suite {suite} refines no tokens: leave refine out")
    if steps < 0:
        raise EvaluationError(f"refine must be 0 or more steps, not {steps}")


def score_generator(vilg: Vilg, splits: Splits, settings: Settings) -> dict[str, Any]:
    """Return captions, concept top-1, matched against shuffled pairs, and likelihoods."""
    image_ids = {}
    for name, samples in splits.chosen.items():
        rows = [
            moved(
                torch.from_numpy(
                    encoded_tokens(vilg.image_tokenizer, samples[part]).astype("int64")
                ),
                vilg.device,
            )
            for part in in_batches(len(samples), _BATCH, f"pictures to tokens, {name}")
        ]
        image_ids[name] = torch.cat(rows)
    num_ranked, num_pairs = (
        settings.limit or number for number in (settings.num_ranked, settings.num_pairs)
    )
    return {
        "captions": score_captions(vilg, splits, image_ids),
        "concept_top1": score_top1(vilg, splits, image_ids, num_ranked),
        **score_likelihoods(vilg, splits, image_ids, num_pairs, settings.shuffle_seed),
    }


def _rounded(scores: Any) -> Any:
    """Round every number of nested dicts."""
    if isinstance(scores, dict):
        return {name: _rounded(value) for name, value in scores.items()}
    return round(scores, _DIGITS) if isinstance(scores, float) else scores
