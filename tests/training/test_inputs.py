"""What a run takes from a source: its pictures, and what is left out of them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.sources import picture, write_jsonl
from vilg.data.pairs import DataError, Pair
from vilg.training.inputs import DataConfig, load_readable, read_pictures, stored_tokens

SHADES = (10, 20, 30)


def write_tar(folder: Path, name: str, members: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w") as archive:
        for member, content in members.items():
            header = tarfile.TarInfo(member)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def tars(folder: Path) -> Path:
    for i, shade in enumerate(SHADES):
        members = {f"{i}.png": picture(shade), f"{i}.txt": b"a square"}
        write_tar(folder, f"{i}.tar", members)
    return folder


def parquet(folder: Path) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    folder.mkdir()
    images = [{"bytes": picture(shade), "path": f"{shade}.png"} for shade in SHADES]
    table = {"image": images, "caption": ["a square"] * len(SHADES)}
    write_table(arrow.table(table), folder / "train-00000.parquet")
    return folder


def plain(folder: Path) -> Path:
    folder.mkdir()
    for shade in SHADES:
        (folder / f"{shade}.png").write_bytes(picture(shade))
    (folder / "notes.txt").write_text("of the day")
    return folder


@pytest.mark.parametrize("write", [tars, parquet, plain])
def test_pictures_are_found_however_they_are_kept(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = read_pictures(
        DataConfig(source=str(write(tmp_path / "in"))), tmp_path / "out", io.StringIO()
    )
    arrays_NYX3 = load_readable(found, 4, 0.0, tmp_path / "rejects.jsonl")
    assert arrays_NYX3[:, 0, 0].tolist() == [[shade, 0, 99] for shade in SHADES]
    assert found.others == ({".txt": 1} if write is plain else {})
    assert not (tmp_path / "rejects.jsonl").exists()


def test_pairs_of_a_folder_can_be_chosen_by_their_ids(tmp_path: Path) -> None:
    folder = plain(tmp_path / "in")
    for shade in SHADES:
        (folder / f"{shade}.txt").write_text("a square")
    (tmp_path / "kept.txt").write_text("10\n30\n")
    data = DataConfig(source=str(folder), ids=tmp_path / "kept.txt")
    training = read_pictures(data, tmp_path / "out", io.StringIO()).training
    assert [pair.id for pair in training if isinstance(pair, Pair)] == ["10", "30"]


@pytest.mark.parametrize("kind", ["pairs", "files"])
def test_a_broken_picture_is_a_counted_reject(kind: str, tmp_path: Path) -> None:
    folder = plain(tmp_path / "in")
    (folder / "20.png").write_bytes(b"no picture")
    source = folder
    if kind == "pairs":
        lines = [{"image": f"{shade}.png", "caption": "a square"} for shade in SHADES]
        source = write_jsonl(folder, [*lines, {"image": "lost.png", "caption": "nothing"}])
    found = read_pictures(DataConfig(source=str(source)), tmp_path / "out", io.StringIO())
    rejects = tmp_path / "rejects.jsonl"
    arrays_NYX3 = load_readable(found, 4, 0.5, rejects)
    assert arrays_NYX3[:, 0, 0].tolist() == [[10, 0, 99], [30, 0, 99]]
    places = [json.loads(line)["place"] for line in rejects.read_text().splitlines()]
    expected = {
        "pairs": ["pairs.jsonl line 4", "pairs.jsonl line 2"],
        "files": [str(folder / "20.png")],
    }
    assert places == expected[kind]
    said = {
        "pairs": r"2 of 4 .*first is pairs\.jsonl line 4",
        "files": r"1 of 3 .*first is .*20\.png",
    }
    with pytest.raises(DataError, match=said[kind]):
        load_readable(found, 4, 0.3, rejects)


def test_pictures_of_which_none_can_be_read_are_refused(tmp_path: Path) -> None:
    folder = plain(tmp_path / "in")
    for path in folder.glob("*.png"):
        path.write_bytes(b"no picture")
    found = read_pictures(DataConfig(source=str(folder)), tmp_path / "out", io.StringIO())
    with pytest.raises(DataError, match="3 of 3 pictures cannot be used"):
        load_readable(found, 4, 1.0, tmp_path / "rejects.jsonl")


def test_prompts_alone_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\na cat\n")
    with pytest.raises(DataError, match="holds no picture for an image tokenizer"):
        read_pictures(
            DataConfig(source=str(tmp_path / "prompts.txt")), tmp_path / "out", io.StringIO()
        )


def test_tokens_are_made_once_and_are_those_of_their_samples_alone(tmp_path: Path) -> None:
    tokens_SN = np.array([[0, 1, 65535], [4, 5, 6]], np.uint16)
    folder, ids = tmp_path / "deep" / "tokens", ["5", "2"]
    made = stored_tokens(folder, ids, "one", lambda: tokens_SN)
    assert made.tolist() == tokens_SN.tolist()

    def again(ids: list[str], by: str) -> list[list[int]]:
        return stored_tokens(folder, ids, by, lambda: pytest.fail("made again")).tolist()

    assert again(ids, "one") == tokens_SN.tolist()
    for others, by in ((["2", "5"], "one"), (["5"], "one"), (ids, "two")):
        with pytest.raises(DataError, match="delete the folder, it will be made anew"):
            again(others, by)
    (folder / "image_ids.bin").unlink()
    with pytest.raises(DataError, match=r"image_ids\.bin is not there: remove the folder"):
        again(ids, "one")
