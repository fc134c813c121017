"""Scenes: exact captions, and a scene that does not depend on how many others are built."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from vilg.data.pairs import Pair
from vilg.data.sources import load_pairs, open_source
from vilg.errors import VilgError
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
def emoji(build: ModuleType) -> list[Pair]:
    return load_pairs(build.EMOJI, "train", build.ONLY)


def test_a_scene_is_a_function_of_its_number(build: ModuleType, emoji: list[Pair]) -> None:
    def scene(number: int, seed: int) -> tuple[Any, ...]:
        pair = build.make_scene(number, seed, emoji, 64)
        return pair.picture(), pair.captions, pair.tags

    again = scene(7, 0)
    assert scene(7, 0) == again
    assert scene(8, 0)[0] != again[0]
    assert scene(7, 1)[0] != again[0]


def test_scenes_are_packed_and_another_size_is_not_taken_for_them(
    tmp_path: Path, build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["build.py", "--num", "3", "--size", "32", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    build.main()
    pairs = [item for item in open_source(str(tmp_path / "out")) if isinstance(item, Pair)]
    assert [pair.id for pair in pairs] == ["scene-000000", "scene-000001", "scene-000002"]
    monkeypatch.setattr(sys, "argv", [*command, "--size", "64"])
    with pytest.raises(VilgError, match="holds another data set"):
        build.main()


def test_a_caption_says_what_is_there(build: ModuleType, emoji: list[Pair]) -> None:
    colours = {words.en: colour for colour, words in build.GROUNDS.items()}
    kinds = set()
    for number in range(40):
        scene = build.make_scene(number, 0, emoji, 64)
        (english,), (chinese,) = scene.captions["en"], scene.captions["zh"]
        ground = english.rpartition(" on ")[2]
        corner = open_picture(scene.picture()).convert("RGB").getpixel((0, 0))
        assert "#" + bytes(corner).hex() == colours[ground]
        assert chinese.startswith(build.GROUNDS[colours[ground]].zh)
        kinds.add(scene.tags["kind"])
        if scene.tags["kind"] in ("left of", "above"):
            assert f" {scene.tags['kind']} " in english
            assert {"left of": "左边", "above": "上边"}[scene.tags["kind"]] in chinese
    assert kinds == {"one", "left of", "above", "several"}


HALVES = {
    "left of": ((0, 0, 32, 64), (32, 0, 64, 64)),
    "above": ((0, 0, 64, 32), (0, 32, 64, 64)),
}


def test_a_caption_says_what_is_where_and_how_many_there_are(
    build: ModuleType, emoji: list[Pair]
) -> None:
    by_name, counts = {sample.tags["name.en"]: sample for sample in emoji}, set()
    for number in range(60, 100):
        scene = build.make_scene(number, 0, emoji, 64)
        english, pixels = (
            scene.captions["en"][0].rpartition(" on ")[0],
            open_picture(scene.picture()),
        )
        if scene.tags["kind"] in HALVES:
            names = english.split(f" {scene.tags['kind']} ")
            looks = [build.cut_out(by_name[name], 26) for name in names]
            first, second = (pixels.crop(box) for box in HALVES[scene.tags["kind"]])
            assert unlike(first, looks[0]) < unlike(first, looks[1])
            assert unlike(second, looks[1]) < unlike(second, looks[0])
        elif scene.tags["kind"] == "several":
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


def test_only_the_white_outside_is_cut_out(build: ModuleType, emoji: list[Pair]) -> None:
    sample = next(sample for sample in emoji if sample.tags["name.en"] == "panda")
    alpha = build.cut_out(sample, 64).getchannel("A")
    assert isinstance(alpha, Image.Image)
    assert alpha.getpixel((0, 0)) == 0
    assert alpha.getpixel((32, 32)) == 255
    assert 0.4 < sum(value > 0 for value in alpha.tobytes()) / 64**2 < 0.95  # its white stays
