"""What is packed of any source is what is read back; kills and workers change no byte."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources import files_of, picture, write_jsonl
from tests.training.conftest import forking
from vilg.data import pack as packer
from vilg.data import parts
from vilg.data.pack import add_member, pack
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import Worker
from vilg.data.sources import Source, open_source

EMOJI = Path(__file__).parents[2] / "datasets" / "emoji"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, packer):
        monkeypatch.setattr(module, "ITEMS", 4)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eleven items in three parts: one of every kind, two that are no pairs, a second pair of one id."""
    (tmp_path / "in").mkdir()
    formats = {"a.png": "PNG", "b.jpg": "JPEG", "c.webp": "WEBP", "d.gif": "GIF", "e.bmp": "BMP"}
    for shade, (name, format) in enumerate(formats.items()):
        (tmp_path / "in" / name).write_bytes(picture(shade, format))
    (tmp_path / "in" / "text.png").write_text("no picture")
    records: list[dict[str, Any]] = [
        {"image": "a.png", "caption": "a peach", "place": "Köln", "year": 1999},
        {"image": "b.jpg", "caption_zh": ["桃子", "一个桃子"], "caption_en": ["a", "b"]},
        {"image": "lost.png", "caption": "nothing"},
        {"image": "c.webp", "id": "photo/3.x", "caption": ["", "a third"]},
        {
            "image": "d.gif",
            "id": "asked",
            "questions": [{"question_id": 7, "question": "什么颜色?", "answers": ["红", "红色"]}],
        },
        {"image": "text.png", "caption": "words"},
        {"image": "e.bmp", "caption": 'a "fifth"\n\t'},
        {"image": "g.png", "id": "a", "caption": "a second a"},
        *({"image": f"{i}.png", "caption": f"number {i}"} for i in range(3)),
    ]
    return write_jsonl(tmp_path / "in", records)


def pack_whole(source: Path, out: Path, worker: Worker | None = None) -> bool:
    return pack(open_source(str(source)), out, "fruit", max_rejects=0.3, worker=worker)


def said(pair: Pair) -> tuple[Any, ...]:
    """Return all of a pair but its place."""
    assert pair.picture is not None
    names = [question.id for question in pair.questions]  # which make no question another one
    texts = (dict(pair.captions), dict(pair.prompts), pair.questions, names, dict(pair.tags))
    return (pair.id, pair.picture(), *texts)


def pairs_of(source: Path) -> list[Pair]:
    items = list(open_source(str(source)))
    return [item for item in items if isinstance(item, Pair)]


def test_a_packed_source_reads_as_the_source(source: Path, tmp_path: Path) -> None:
    assert pack_whole(source, tmp_path / "out")
    before = [pair for pair in pairs_of(source) if pair.id != "text"]
    again = [pair for pair in before if pair.id == "a"][1:]
    expected = [said(pair) for pair in before if pair not in again]
    found = open_source(str(tmp_path / "out"))
    assert found.format.name == "packed"
    assert [said(pair) for pair in pairs_of(tmp_path / "out")] == expected
    assert [pair.id for pair in pairs_of(tmp_path / "out")] == [
        *("a", "b", "photo/3.x", "asked", "e", "0", "1", "2")
    ]


def test_item_i_is_key_i_in_shard_i_by_the_size_of_a_part(source: Path, tmp_path: Path) -> None:
    pack_whole(source, tmp_path / "out")
    names = []
    for number in range(3):
        shard = tmp_path / "out" / "shards" / f"fruit-{number:08d}.tar"
        with tarfile.open(shard) as archive:
            names.append([name.lstrip("0") for name in archive.getnames()])
    assert names == [
        [".png", ".json", "1.jpg", "1.json", "3.webp", "3.json"],
        ["4.gif", "4.json", "6.bmp", "6.json"],
        ["8.png", "8.json", "9.png", "9.json", "10.png", "10.json"],
    ]


def test_what_is_left_out_is_counted_with_its_place(source: Path, tmp_path: Path) -> None:
    pack_whole(source, tmp_path / "out")
    lines = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    found = [tuple(json.loads(line)[name] for name in ("place", "left_out")) for line in lines]
    assert found == [
        ("pairs.jsonl line 3", "pair"),
        ("pairs.jsonl line 4", "text"),
        ("pairs.jsonl line 6", "pair"),
        ("pairs.jsonl line 8", "pair"),
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["items"], manifest["samples"], manifest["left_out"]) == (11, 8, 3)
    for shard in manifest["shards"]:
        content = (tmp_path / "out" / "shards" / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
    assert [shard["samples"] for shard in manifest["shards"]] == [3, 2, 3]


def test_too_many_left_out_are_refused_and_allowed_later(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 of 11 pairs were left out, more than 10%.*--max-rej"):
        pack(open_source(str(source)), tmp_path / "out", "fruit")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert pack_whole(source, tmp_path / "out")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_in_any_order_write_the_same_bytes(
    source: Path, tmp_path: Path, world: int
) -> None:
    pack_whole(source, tmp_path / "alone")
    whole = [
        pack_whole(source, tmp_path / "shared", Worker(rank, world))
        for rank in reversed(range(world))
    ]
    assert whole == [False] * (world - 1) + [True]
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    # One that comes when all is done, as a second run, changes nothing.
    assert pack_whole(source, tmp_path / "shared", Worker(world - 1, world))
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


def test_what_was_made_from_other_pairs_is_not_mixed_with_these(
    source: Path, tmp_path: Path
) -> None:
    pack_whole(source, tmp_path / "out", Worker(0, 2))
    pack_whole(source, tmp_path / "done")
    source.write_text(source.read_text(encoding="utf-8").replace("a peach", "a pear"), "utf-8")
    with pytest.raises(DataError, match="parts holds parts of other pairs"):
        pack_whole(source, tmp_path / "out", Worker(1, 2))
    with pytest.raises(DataError, match="holds another data set"):
        pack_whole(source, tmp_path / "done")
    with pytest.raises(DataError, match="is what is read"):
        pack(open_source(str(tmp_path / "done")), tmp_path / "done", "fruit")
    with pytest.raises(DataError, match="cannot be the name"):
        pack(open_source(str(source)), tmp_path / "new", "a/b")
    (tmp_path / "empty.jsonl").write_text('{"image": "lost.png"}\n')
    with pytest.raises(DataError, match="holds no pair among 1 items; read as JSON lines"):
        pack(open_source(str(tmp_path / "empty.jsonl")), tmp_path / "new", "fruit")
    assert not (tmp_path / "new").exists()


def test_parts_with_other_pictures_are_not_mixed_with_these(source: Path, tmp_path: Path) -> None:
    pack_whole(source, tmp_path / "half", Worker(0, 2))
    pack_whole(source, tmp_path / "done")
    source.with_name("a.png").write_bytes(picture(7, size=(99, 99)))
    with pytest.raises(DataError, match="parts holds parts of other pairs"):
        pack_whole(source, tmp_path / "half", Worker(1, 2))
    with pytest.raises(DataError, match="holds another data set"):
        pack_whole(source, tmp_path / "done")


def test_who_is_late_begins_nothing_again(source: Path, tmp_path: Path) -> None:
    """When one is about to begin, another makes all parts, joins them and clears up."""
    out = tmp_path / "out"

    class Late(Source):
        walks = 0

        def __iter__(self) -> Iterator[Pair | Reject]:
            Late.walks += 1
            for i, item in enumerate(super().__iter__()):
                if Late.walks == 2 and i == 5:  # the first walk takes stock; the first part is made
                    assert pack_whole(source, out)
                yield item

    found = open_source(str(source))
    late = Late(found.given, found.format, found.files)
    assert pack(late, out, "fruit", max_rejects=0.3)
    pack_whole(source, tmp_path / "alone")
    assert files_of(out) == files_of(tmp_path / "alone")


def join(source: Path, out: Path) -> None:
    for module in (parts, packer):
        module.ITEMS = 4  # type: ignore[attr-defined]
    pack_whole(source, out)


def test_who_joins_at_the_same_time_does_no_harm(source: Path, tmp_path: Path) -> None:
    with source.open("a", encoding="utf-8") as file:
        for i in range(200):
            record = {"image": "a.png", "id": f"more {i % 190}", "caption": "x"}
            file.write(json.dumps(record) + "\n")
    pack_whole(source, tmp_path / "alone")
    with pytest.raises(DataError, match="--max-rejects"):
        pack(open_source(str(source)), tmp_path / "made", "fruit", max_rejects=0.0)
    for i in range(4):
        out = shutil.copytree(tmp_path / "made", tmp_path / str(i))
        processes = [forking().Process(target=join, args=(source, out)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * 3
        assert files_of(out) == files_of(tmp_path / "alone")


def test_the_emoji_set_reads_the_same_when_it_is_packed_anew(tmp_path: Path) -> None:
    """Its own shards are of the older form, with names, keywords and concepts."""
    emoji = open_source(str(EMOJI), limit=30)
    pack(emoji, tmp_path / "out", "emoji")
    before = [said(item) for item in emoji if isinstance(item, Pair)]
    assert [said(pair) for pair in pairs_of(tmp_path / "out")] == before
    assert len(before) == 30
    assert any(prompts for pair in before for prompts in pair[3].values())


def write_shard(folder: Path, fields: Any) -> Path:
    """Write a data set of one pair, whose manifest agrees with its bytes."""
    write_jsonl(folder / "in", [{"image": "a.png", "caption": "a"}])
    pack(open_source(str(folder / "in")), folder / "out", "one")
    [shard] = (folder / "out" / "shards").iterdir()
    with tarfile.open(shard, "w") as archive:
        add_member(archive, "0.png", picture(0))
        add_member(archive, "0.json", json.dumps(fields).encode())
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (folder / "out" / "manifest.json").write_text(json.dumps(manifest))
    return folder / "out"


GOOD = {"id": "x", "captions": {"en": ["a"]}, "prompts": {}, "questions": [], "tags": {}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": 3}, "'id' must be str"),
        ({"captions": {"en": "a"}}, "captions must be a list of texts a language"),
        ({"captions": {"fr": ["a"]}}, "language 'fr' is none of"),
        ({"prompts": None}, "'prompts' must be dict"),
        ({"questions": [{"lang": "en", "text": "?"}]}, "'answers' is missing"),
        ({"questions": [{"lang": "en", "text": "?", "answers": [1]}]}, "answers must be a list"),
        ({"tags": {"year": 1999}}, "tags must be one text a name"),
    ],
)
def test_a_shard_that_is_not_as_packed_is_an_error(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    out = write_shard(tmp_path, GOOD | change)
    with pytest.raises(DataError, match=rf"0\.json.*{problem}"):
        list(open_source(str(out)))


def test_a_good_shard_written_by_hand_is_read(tmp_path: Path) -> None:
    [pair] = pairs_of(write_shard(tmp_path, GOOD))
    assert said(pair) == ("x", picture(0), {"en": ("a",)}, {}, (), [], {})
    assert pair.place == "one-00000000.tar 0"


def test_half_characters_come_back(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in", [{"image": "a.png", "caption": "a"}])
    path.write_text('{"image": "a.png", "caption": "a", "mood": "\\ud83d"}')
    [item] = list(open_source(str(path)))
    assert not isinstance(item, Reject)
    pack(open_source(str(path)), tmp_path / "out", "one")
    assert [said(pair) for pair in pairs_of(tmp_path / "out")] == [said(item)]


@pytest.mark.parametrize("moment", ["moved", "written anew"])
def test_a_kill_while_shards_are_put_in_place_costs_no_byte(
    source: Path, tmp_path: Path, moment: str
) -> None:
    """The first shard has nothing to leave out and is moved; the second has a second pair of one id."""
    pack_whole(source, tmp_path / "whole")
    out, shards = tmp_path / "out", tmp_path / "out" / "shards"
    with pytest.raises(DataError, match="--max-rejects"):
        pack(open_source(str(source)), out, "fruit")  # leaves all parts as they are
    shards.mkdir()
    (out / "parts" / "00000000.tar").rename(shards / "fruit-00000000.tar")
    if moment != "moved":
        anew = (tmp_path / "whole" / "shards" / "fruit-00000001.tar").read_bytes()
        (shards / "fruit-00000001.tar").write_bytes(anew)
    assert pack_whole(source, out)
    assert files_of(out) == files_of(tmp_path / "whole")
