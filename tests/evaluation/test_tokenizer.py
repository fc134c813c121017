"""PSNR and codebook use against their formulas written out."""

import math
from collections import Counter

import numpy as np
import pytest

from vilg.evaluation.samples import Splits
from vilg.evaluation.tokenizer import (
    MAX_PSNR_DB,
    code_use,
    psnr_db,
    reconstruction_sheet,
    score_tokenizer,
)
from vilg.model.folder import Model

from .conftest import toy_samples


def naive_psnr(a: np.ndarray, b: np.ndarray) -> float:
    squares = [(int(x) / 255 - int(y) / 255) ** 2 for x, y in zip(a.flat, b.flat, strict=True)]
    return 10 * math.log10(1 / (sum(squares) / len(squares)))


def test_psnr_is_the_formula_picture_by_picture() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 3, 5, 4, 3)).astype(np.uint8)
    expected = [naive_psnr(x, y) for x, y in zip(a, b, strict=True)]
    assert psnr_db(a, b) == pytest.approx(expected)
    assert psnr_db(a, b) == pytest.approx(psnr_db(b, a))  # bytes don't wrap around


def test_black_against_white_is_zero_db_and_equal_pictures_reach_the_cap() -> None:
    black = np.zeros((1, 64, 64, 3), np.uint8)
    assert psnr_db(black, 255 - black) == pytest.approx([0])
    assert psnr_db(black, black) == pytest.approx([MAX_PSNR_DB])
    nearly = black.copy()
    nearly[0, 0, 0, 0] = 1
    assert psnr_db(black, nearly)[0] < MAX_PSNR_DB - 10


def test_usage_and_perplexity_are_those_of_the_counts() -> None:
    ids = np.random.default_rng(0).integers(0, 7, (4, 9)) ** 2
    counts = Counter(ids.flat)
    entropy = -sum(n / ids.size * math.log(n / ids.size) for n in counts.values())
    assert code_use(ids, 50) == pytest.approx(
        {"usage": len(counts) / 50, "perplexity": math.exp(entropy)}
    )


def test_an_even_use_of_k_codes_has_perplexity_k() -> None:
    assert code_use(np.arange(8).repeat(3), 16) == pytest.approx({"usage": 0.5, "perplexity": 8})
    assert code_use(np.full(5, 3), 16) == pytest.approx({"usage": 1 / 16, "perplexity": 1})


def test_scores_by_style_average_to_the_whole(toy_model: Model) -> None:
    samples = toy_samples()
    splits = Splits(samples, {"train": samples}, {"train": samples})
    scores = score_tokenizer(toy_model.image_tokenizer, splits)["train"]
    parts = scores["by_style"].values()
    assert list(scores["by_style"]) == ["flat", "noto"]
    assert scores["all"]["num"] == sum(part["num"] for part in parts) == len(samples)
    mean = sum(part["num"] * part["psnr_db"] for part in parts) / len(samples)
    assert scores["all"]["psnr_db"] == pytest.approx(mean)
    assert scores["all"]["usage"] >= max(part["usage"] for part in parts)


def test_the_sheet_has_two_rows_a_style(toy_model: Model) -> None:
    samples = toy_samples()
    splits = Splits(samples, {}, {"train": samples, "unseen_concept": samples})
    sheet = reconstruction_sheet(toy_model.image_tokenizer, splits)
    assert sheet.size == (4 * (64 + 4) + 4, 4 * (64 + 4) + 4)
    # Eight concepts and two styles: no concept is shown twice.
    shown = {sheet.getpixel((8 + 68 * x, 8 + 136 * y)) for x in range(4) for y in range(2)}
    concepts = {colour[0] for colour in shown}  # type: ignore[index]
    assert len(concepts) == 8
