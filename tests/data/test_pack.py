"""What is packed is what is read back, to the byte; and the emoji's own hash is ours."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vilg.data import pack
from vilg.data.pack import hash_content, save_samples
from vilg.data.shards import DataError, Sample, fingerprint, load_samples, load_split

EMOJI = Path(__file__).parents[2] / "datasets" / "emoji"


def picture(shade: int, format: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, format=format)
    return stream.getvalue()


def sample(id: str, shade: int = 0, format: str = "WEBP") -> Sample:
    return Sample(
        id=id,
        concept="apple",
        style="plain",
        group="food",
        subgroup="fruit",
        names={"en": "apple", "zh": "苹果"},
        captions={"en": ("apple, plain", "an apple"), "zh": ("苹果，朴素",)},
        keywords={"en": ("fruit",), "zh": ()},
        picture=picture(shade, format),
    )


SAMPLES = [sample("b", 1), sample("a", 2, "PNG"), sample("c", 3, "JPEG")]


def test_what_is_packed_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "SAMPLES_PER_SHARD", 2)
    save_samples(tmp_path, "fruit", SAMPLES, {"train": ["c", "a"], "test": ["b"]})
    assert load_samples(tmp_path) == sorted(SAMPLES, key=lambda one: one.id)
    assert load_split(tmp_path, "train") == ("a", "c")
    assert [path.name for path in sorted((tmp_path / "shards").iterdir())] == [
        "fruit-0000.tar",
        "fruit-0001.tar",
    ]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_samples(tmp_path / name, "fruit", SAMPLES, {"train": ["a"]})
    one, two = (
        {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 3


def test_the_content_hash_is_that_of_the_shipped_data_set() -> None:
    assert hash_content(load_samples(EMOJI)) == fingerprint(EMOJI)


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the id b occurs twice"):
        save_samples(tmp_path, "fruit", [SAMPLES[0], SAMPLES[0]], {})
    with pytest.raises(DataError, match="c: the picture is neither"):
        save_samples(tmp_path, "fruit", [replace(SAMPLES[2], picture=b"GIF89a")], {})
    assert not (tmp_path / "manifest.json").exists()
    save_samples(tmp_path, "fruit", SAMPLES, {})
    with pytest.raises(DataError, match="holds a data set"):
        save_samples(tmp_path, "fruit", SAMPLES, {})
