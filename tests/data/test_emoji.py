"""The shipped emoji data set is whole, and is what its manifest and README say."""

import hashlib
import io
import json
import sys
from collections import Counter, defaultdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from vilg.data.pairs import Pair
from vilg.data.shards import fingerprint, list_splits, load_split
from vilg.data.sources import load_pairs

FOLDER = Path(__file__).parents[2] / "datasets" / "emoji"
SPLITS = ("train", "unseen_combination", "unseen_concept")
ENDINGS = {
    "fluent_3d": {"zh": "，三维风格", "en": ", 3D render"},
    "fluent_flat": {"zh": "，扁平风格", "en": ", flat style"},
    "noto": {"zh": "，Noto风格", "en": ", Noto style"},
    "twemoji": {"zh": "，推特风格", "en": ", Twitter style"},
}


@pytest.fixture(scope="module")
def samples() -> list[Pair]:
    return load_pairs(FOLDER)


@pytest.fixture(scope="module")
def pixels(samples: list[Pair]) -> dict[str, bytes]:
    """The decoded pixels of every picture, by id."""
    decoded = {}
    for sample in samples:
        with Image.open(io.BytesIO(sample.picture())) as image:
            assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (64, 64)), sample.id
            decoded[sample.id] = image.tobytes()
    return decoded


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def import_build_module(name: str) -> ModuleType:
    """Import a module of the build, which stands beside the data and is no package."""
    spec = spec_from_file_location(f"emoji_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # A dataclass looks its module up while it is being made.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_counts_are_those_of_the_manifest(samples: list[Pair], manifest: dict[str, Any]) -> None:
    counts = manifest["counts"]
    style_of = {sample.id: sample.tags["style"] for sample in samples}
    assert len(samples) == manifest["samples"] == sum(s["samples"] for s in manifest["shards"])
    assert len({sample.tags["concept"] for sample in samples}) == counts["concept"]
    assert Counter(style_of.values()) == counts["style"]
    assert Counter(sample.tags["group"] for sample in samples) == counts["group"]
    for split in SPLITS:
        ids = load_split(FOLDER, split)
        assert len(ids) == counts["split"][split]
        assert Counter(style_of[id] for id in ids) == counts["split_by_style"][split]


def test_readme_states_the_counts(manifest: dict[str, Any]) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    counts = manifest["counts"]
    for number in (manifest["samples"], counts["concept"], *counts["style"].values()):
        assert f"{number:,}" in text
    for group, number in counts["group"].items():
        assert f"| {group} | {number:,} |" in text
    for split, number in counts["split"].items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {split} |"))
        by_style = counts["split_by_style"][split]
        cells = [
            f"{by_style[style]:,}" for style in ("noto", "fluent_3d", "fluent_flat", "twemoji")
        ]
        assert row == f"| {split} | {' | '.join(cells)} | {number:,} |"


def test_splits_divide_the_samples(samples: list[Pair]) -> None:
    assert tuple(list_splits(FOLDER)) == SPLITS
    in_splits = [id for split in SPLITS for id in load_split(FOLDER, split)]
    assert sorted(in_splits) == [sample.id for sample in samples]
    for split in SPLITS:
        ids = load_split(FOLDER, split)
        assert list(ids) == sorted(ids)


def test_held_out_samples_are_what_their_split_says(samples: list[Pair]) -> None:
    split_of = {id: split for split in SPLITS for id in load_split(FOLDER, split)}
    splits_of_concept: dict[str, set[str]] = defaultdict(set)
    fluent: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        splits_of_concept[sample.tags["concept"]].add(split_of[sample.id])
        if sample.tags["style"].startswith("fluent"):
            fluent[sample.tags["concept"]].add(split_of[sample.id])
    assert all(len(splits) == 1 for splits in fluent.values()), "the Fluents share their shapes"
    for splits in splits_of_concept.values():
        assert splits == {"unseen_concept"} or splits - {"unseen_combination"} == {"train"}


def test_splits_are_the_build_s_own(samples: list[Pair]) -> None:
    """The rule beside the data still gives the lists beside the data, in any order of samples."""
    rule = import_build_module("splits")
    pairs = [(sample.tags["concept"], sample.tags["style"]) for sample in reversed(samples)]
    assert {
        f"{style}-{concept}": split for (concept, style), split in rule.split_samples(pairs).items()
    } == {id: split for split in SPLITS for id in load_split(FOLDER, split)}


def test_packages_are_the_pinned_ones_and_another_archive_is_refused(
    tmp_path: Path, manifest: dict[str, Any]
) -> None:
    packages = import_build_module("packages")
    assert manifest["packages"] == {
        package.name: {"version": package.version, "integrity": package.integrity}
        for package in packages.PACKAGES
    }
    (tmp_path / packages.NOTO.file_name).write_bytes(b"another build of the same version")
    with pytest.raises(packages.BuildError, match=r"is not @iconify-json/noto 1\.2\.9"):
        packages.fetch(packages.NOTO, tmp_path)


def test_held_out_shares_are_as_promised(manifest: dict[str, Any]) -> None:
    split = manifest["counts"]["split"]
    assert 0.02 < split["unseen_concept"] / manifest["samples"] < 0.04
    assert 0.04 < split["unseen_combination"] / manifest["samples"] < 0.06


def test_no_picture_is_blank_or_occurs_twice(pixels: dict[str, bytes]) -> None:
    assert len(set(pixels.values())) == len(pixels)
    for id, picture in pixels.items():
        assert picture != picture[:3] * (64 * 64), id


def test_pictures_stand_on_white(pixels: dict[str, bytes]) -> None:
    """Nearly every picture leaves some white; on black or transparent ground none would."""
    white = sum(b"\xff" * 3 in picture for picture in pixels.values())
    assert white > 0.98 * len(pixels)


def test_captions_are_canonical_and_one_of_a_kind(samples: list[Pair]) -> None:
    for sample in samples:
        endings = ENDINGS[sample.tags["style"]]
        assert sample.id == "-".join((sample.tags["style"], sample.tags["concept"]))
        assert sample.captions == {
            language: (sample.tags[f"name.{language}"] + endings[language],)
            for language in ("zh", "en")
        }
    for language in ("zh", "en"):
        assert len({sample.captions[language] for sample in samples}) == len(samples)


def test_keywords_take_the_place_of_the_name_in_prompts(samples: list[Pair]) -> None:
    [apple] = [sample for sample in samples if sample.id == "fluent_3d-1F34E"]
    words = ("健康", "水果", "熟", "红", "苹果", "食物")
    assert apple.prompts["zh"] == tuple(f"{word}，三维风格" for word in words)
    for sample in samples:
        endings = ENDINGS[sample.tags["style"]]
        for language, prompts in sample.prompts.items():
            assert all(prompt.endswith(endings[language]) for prompt in prompts)


def test_every_picture_has_its_artist_s_licence(samples: list[Pair]) -> None:
    licences = {"noto": "Apache-2.0", "twemoji": "CC-BY-4.0"}  # LICENSES.md
    for sample in samples:
        assert sample.tags["license"] == licences.get(sample.tags["style"], "MIT")


def test_dropped_pictures_are_gone_and_their_twins_are_there(
    samples: list[Pair], manifest: dict[str, Any]
) -> None:
    ids = {sample.id for sample in samples}
    dropped = manifest["dropped"]
    assert not ids & {*dropped["duplicate"], *dropped["blank"], *dropped["foreign"]}
    assert ids >= set(dropped["duplicate"].values())


def test_fingerprint_is_the_hash_of_what_the_shards_hold(
    samples: list[Pair], pixels: dict[str, bytes]
) -> None:
    total = hashlib.sha256()
    for sample in samples:
        captions = {language: list(texts) for language, texts in sample.captions.items()}
        row = [sample.id, hashlib.sha256(pixels[sample.id]).hexdigest(), captions]
        total.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    assert fingerprint(FOLDER) == total.hexdigest()
