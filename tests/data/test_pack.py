"""What is packed is what is read back, to the byte; and the emoji's own hash is ours."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings, strategies
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
    with pytest.raises(DataError, match="c: the picture is none of webp"):
        save_samples(tmp_path, "fruit", [replace(SAMPLES[2], picture=b"II*")], {})
    assert not (tmp_path / "manifest.json").exists()
    save_samples(tmp_path, "fruit", SAMPLES, {})
    with pytest.raises(DataError, match="holds a data set"):
        save_samples(tmp_path, "fruit", SAMPLES, {})


@settings(max_examples=30, deadline=None)
@given(
    strategies.lists(
        strategies.text(max_size=12) | strategies.text("aé名 ./\n\\", max_size=300),
        min_size=1,
        max_size=3,
    )
)
@example(["my cat", "IMG_1.edited", "a" * 120, "名" * 120, ".png", "a.json", "b."])
@example(["\ud800"])
@example(["a", "a "])
@example(["a/b"])
@example(["a\x85b", "a\u2028b"])
def test_any_ids_are_read_as_they_were_written_or_refused(ids: list[str]) -> None:
    samples = [sample(id) for id in ids]
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            save_samples(folder, "fruit", samples, {"train": ids})
        except DataError:
            assert not (folder / "manifest.json").exists()
            return
        assert load_samples(folder, "train") == sorted(samples, key=lambda one: one.id)
        assert load_split(folder, "train") == tuple(sorted(ids))


@pytest.mark.parametrize("id", ["my cat", "IMG_1.edited", "a" * 120, "名" * 120, "a.b.png"])
def test_usual_names_of_files_are_ids(id: str, tmp_path: Path) -> None:
    save_samples(tmp_path, "fruit", [sample(id)], {"train": [id]})
    assert [one.id for one in load_samples(tmp_path, "train")] == [id]


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    for wrong, said in (
        (replace(SAMPLES[0], captions={}), "b: a language has no caption"),
        (replace(SAMPLES[0], concept="\ud800"), "'b': a text is no Unicode"),
        (replace(SAMPLES[0], names={"en": 3}), "b: names must be"),  # type: ignore[dict-item]
    ):
        with pytest.raises(DataError, match=said):
            save_samples(tmp_path, "fruit", [wrong], {})
    for split, said in ((["b", "b"], "id b occurs twice"), (["x"], "no sample has the id x")):
        with pytest.raises(DataError, match=said):
            save_samples(tmp_path, "fruit", SAMPLES, {"train": split})
    with pytest.raises(DataError, match="cannot be the name of a file"):
        save_samples(tmp_path, "fruit", SAMPLES, {"a/b": []})
    assert not (tmp_path / "manifest.json").exists()


def test_a_repeated_id_is_found_in_no_time(tmp_path: Path) -> None:
    ids = [f"sample-{i:06d}" for i in range(50_000)]
    one, start = sample("one"), time.process_time()
    with pytest.raises(DataError, match="sample-049999 occurs twice"):
        save_samples(tmp_path, "many", [replace(one, id=id) for id in (*ids, ids[-1])], {})
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("\n".join([*ids, ids[-1]]))
    with pytest.raises(DataError, match="sample-049999 occurs twice"):
        load_split(tmp_path, "train")
    assert time.process_time() - start < 5  # a minute where each id is looked for in all before


def test_foreign_json_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="not valid JSON"):
        load_samples(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"content_sha256": "", "shards": []}))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"cannot read .*train.txt"):
        load_split(tmp_path, "train")
