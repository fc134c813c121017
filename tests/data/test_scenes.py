"""Scenes: exact captions, and a scene that does not depend on how many others are built."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageChops, ImageStat

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


HALVES = {
    "left of": ((0, 0, 32, 64), (32, 0, 64, 64)),
    "above": ((0, 0, 64, 32), (0, 32, 64, 64)),
}


def test_a_caption_says_what_is_where_and_how_many_there_are(
    build: ModuleType, emoji: list[Sample]
) -> None:
    by_name, counts = {sample.names["en"]: sample for sample in emoji}, set()
    for number in range(60, 100):
        scene = build.make_scene(number, 0, emoji, 64)
        english, pixels = scene.names["en"].rpartition(" on ")[0], open_picture(scene.picture)
        if scene.subgroup in HALVES:
            names = english.split(f" {scene.subgroup} ")
            looks = [build.cut_out(by_name[name], 26) for name in names]
            first, second = (pixels.crop(box) for box in HALVES[scene.subgroup])
            assert unlike(first, looks[0]) < unlike(first, looks[1])
            assert unlike(second, looks[1]) < unlike(second, looks[0])
        elif scene.subgroup == "several":
            quadrants = [pixels.crop((x, y, x + 32, y + 32)) for x in (0, 32) for y in (0, 32)]
            count = sum(len(quadrant.getcolors(1024) or "many") > 1 for quadrant in quadrants)
            assert english.startswith({2: "two", 3: "three", 4: "four"}[count] + " times ")
            counts.add(count)
    assert counts == {2, 3, 4}


def unlike(half: Image.Image, look: Image.Image) -> float:
    """Return how far a half of a scene is from an emoji in its middle, on the ground of its corner."""
    expected = Image.new("RGB", half.size, half.getpixel((0, 0)))  # type: ignore[arg-type]
    expected.paste(look, ((half.width - look.width) // 2, (half.height - look.height) // 2), look)
    return sum(ImageStat.Stat(ImageChops.difference(half, expected)).mean)


def test_only_the_white_outside_is_cut_out(build: ModuleType, emoji: list[Sample]) -> None:
    sample = next(sample for sample in emoji if sample.names["en"] == "panda")
    alpha = build.cut_out(sample, 64).getchannel("A")
    assert isinstance(alpha, Image.Image)
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getpixel((32, 32)) == 255
    assert 0.4 < sum(value > 0 for value in alpha.tobytes()) / 64**2 < 0.95  # its white stays
