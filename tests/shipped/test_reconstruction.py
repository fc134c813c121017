"""PSNR, SSIM and codebook use against their formulas written out, and scores by split and style."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from vilg.data.pictures import load_pictures
from vilg.evaluation.judge import Judge
from vilg.evaluation.likeness import finds_original, kernel_distance
from vilg.images import to_arrays, to_pixels
from vilg.model.folder import Model
from vilg.shipped.reconstruction import (
    MAX_PSNR_DB,
    code_use,
    psnr_db,
    reconstruction_sheet,
    score_tokenizer,
    ssim,
)
from vilg.shipped.samples import Splits

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


def naive_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equations 13 to 17, one window after the other; pictures are bytes_YX3."""
    places = np.arange(-5, 6)
    window = np.exp(-(places[:, None] ** 2 + places**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    a, b = (np.pad(x.astype(float), ((5, 5), (5, 5), (0, 0)), mode="reflect") for x in (a, b))
    values = []
    for y, x, channel in np.ndindex(a.shape[0] - 10, a.shape[1] - 10, 3):
        p, q = (picture[y : y + 11, x : x + 11, channel] for picture in (a, b))
        mean_p, mean_q = (window * p).sum(), (window * q).sum()
        var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
        covariance = (window * (p - mean_p) * (q - mean_q)).sum()
        luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
        values.append(luminance * (2 * covariance + c2) / (var_p + var_q + c2))
    return float(np.mean(values))


def test_ssim_is_the_formula_picture_by_picture() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (3, 14, 12, 3)).astype(np.uint8)
    a[1] = 250 + a[1] % 6  # nearly white, where variances are small differences of large numbers
    b = (a + random.integers(-3, 4, a.shape)).clip(0, 255).astype(np.uint8)
    b[2] = 0
    expected = [naive_ssim(x, y) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b) == pytest.approx(expected, abs=3e-4)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-6)


def test_ssim_of_equal_pictures_is_one_and_of_black_against_white_nearly_zero() -> None:
    black = np.zeros((1, 64, 64, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    assert ssim(noise, noise) == pytest.approx([1], abs=1e-5)
    assert ssim(black, 255 - black) == pytest.approx([1e-4], abs=1e-5)  # C1 / (1 + C1)
    assert ssim(noise, 255 - noise)[0] < 0


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


SAMPLES = toy_samples()[:10]
SEED = 3


@pytest.fixture(scope="module")
def scores(toy_model: Model, judge: Judge) -> dict[str, Any]:
    splits = Splits(SAMPLES, {"train": SAMPLES}, {"train": SAMPLES})
    vqgan = toy_model.image_tokenizer
    return score_tokenizer(vqgan, vqgan.encode, judge, splits, SEED)["train"]


def test_scores_by_style_average_to_the_whole(scores: dict[str, Any]) -> None:
    parts = scores["by_style"].values()
    assert list(scores["by_style"]) == ["flat", "noto"]
    assert scores["all"]["num"] == sum(part["num"] for part in parts) == len(SAMPLES)
    for score in ("psnr_db", "ssim", "retrieval_top1"):
        mean = sum(part["num"] * part[score] for part in parts) / len(SAMPLES)
        assert scores["all"][score] == pytest.approx(mean)
    assert scores["all"]["usage"] >= max(part["usage"] for part in parts)


def test_the_judge_sees_reconstructions_and_originals_of_the_split(
    toy_model: Model, judge: Judge, scores: dict[str, Any]
) -> None:
    vqgan = toy_model.image_tokenizer
    originals = load_pictures(SAMPLES, 32)
    rebuilt = to_arrays(vqgan.decode(vqgan.encode(to_pixels(originals))))
    seen, wanted = (judge.features(arrays, "pictures") for arrays in (rebuilt, originals))
    found = finds_original(seen, wanted)
    flat = [i for i, sample in enumerate(SAMPLES) if sample.tags["style"] == "flat"]

    assert scores["all"]["ssim"] == pytest.approx(ssim(originals, rebuilt).mean())
    assert scores["all"]["retrieval_top1"] == pytest.approx(found.mean())
    assert scores["all"]["kernel_distance"] == pytest.approx(kernel_distance(seen, wanted, SEED))
    # A style's reconstructions are looked for among the originals of all styles, but its distance
    # is that to its own originals.
    part = scores["by_style"]["flat"]
    assert part["retrieval_top1"] == pytest.approx(found[flat].mean())
    distance = kernel_distance(seen[flat], wanted[flat], SEED)
    assert part["kernel_distance"] == pytest.approx(distance)


def test_the_sheet_has_two_rows_a_style(toy_model: Model) -> None:
    samples = toy_samples()
    splits = Splits(samples, {}, {"train": samples, "unseen_concept": samples})
    vqgan = toy_model.image_tokenizer
    sheet = reconstruction_sheet(vqgan, vqgan.encode, splits)
    assert sheet.size == (4 * (64 + 4) + 4, 4 * (64 + 4) + 4)
    # Eight concepts and two styles: no concept is shown twice.
    shown = {sheet.getpixel((8 + 68 * x, 8 + 136 * y)) for x in range(4) for y in range(2)}
    concepts = {colour[0] for colour in shown}  # type: ignore[index]
    assert len(concepts) == 8


def test_scores_and_sheet_are_of_the_tokens_that_are_given(toy_model: Model, judge: Judge) -> None:
    vqgan = toy_model.image_tokenizer
    samples = toy_samples()[:3]
    splits = Splits(samples, {"train": samples}, {"train": samples})

    def first_code(pixels_B3YX: Tensor) -> Tensor:
        return vqgan.encode(pixels_B3YX).zero_()

    scores = score_tokenizer(vqgan, first_code, judge, splits, SEED)["train"]["all"]
    assert scores["perplexity"] == pytest.approx(1)
    originals = load_pictures(samples, 32)
    rebuilt = to_arrays(vqgan.decode(first_code(to_pixels(originals))))
    assert scores["psnr_db"] == pytest.approx(psnr_db(originals, rebuilt).mean())
    sheets = [reconstruction_sheet(vqgan, encode, splits) for encode in (first_code, vqgan.encode)]
    assert sheets[0].tobytes() != sheets[1].tobytes()
