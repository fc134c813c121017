"""Scenes: exact captions, and a scene that does not depend on how many others are built."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from vilg.data.shards import Sample, load_samples
from vilg.images import open_picture

BUILD = Path(__file__).parents[2] / "datasets" / "scenes" / "build.py"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = spec_from_file_location("scenes_build", BUILD)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules["scenes_build"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def emoji(build: ModuleType) -> list[Sample]:
    samples = load_samples(build.EMOJI, "train", build.GROUPS)
    return [sample for sample in samples if sample.style == build.STYLE]


def test_a_scene_is_a_function_of_its_number(build: ModuleType, emoji: list[Sample]) -> None:
    again = build.make_scene(7, 0, emoji, 64)
    assert build.make_scene(7, 0, emoji, 64) == again
    assert build.make_scene(8, 0, emoji, 64).picture != again.picture
    assert build.make_scene(7, 1, emoji, 64).picture != again.picture


def test_a_caption_says_what_is_there(build: ModuleType, emoji: list[Sample]) -> None:
    colours = {words.en: colour for colour, words in build.GROUNDS.items()}
    kinds = set()
    for number in range(40):
        scene = build.make_scene(number, 0, emoji, 64)
        (english,), (chinese,) = scene.captions["en"], scene.captions["zh"]
        ground = english.rpartition(" on ")[2]
        corner = open_picture(scene.picture).convert("RGB").getpixel((0, 0))
        assert "#" + bytes(corner).hex() == colours[ground]
        assert chinese.startswith(build.GROUNDS[colours[ground]].zh)
        kinds.add(scene.subgroup)
        if scene.subgroup in ("left of", "above"):
            assert f" {scene.subgroup} " in english
            assert {"left of": "左边", "above": "上边"}[scene.subgroup] in chinese
    assert kinds == {"one", "left of", "above", "several"}


def test_only_the_white_outside_is_cut_out(build: ModuleType, emoji: list[Sample]) -> None:
    sample = next(sample for sample in emoji if sample.names["en"] == "panda")
    alpha = build.cut_out(sample, 64).getchannel("A")
    assert isinstance(alpha, Image.Image)
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getpixel((32, 32)) == 255
    assert 0.4 < sum(value > 0 for value in alpha.tobytes()) / 64**2 < 0.95  # its white stays
