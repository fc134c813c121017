"""The reader of our own shards: what it returns, and that no damage passes."""

import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vilg.data.pairs import DataError, Pair
from vilg.data.shards import fingerprint, list_splits, load_split
from vilg.data.sources import load_pairs

Members = list[tuple[str, bytes]]


def members_of(id: str, group: str = "food") -> Members:
    fields = {
        "id": id,
        "captions": {"en": ["apple"], "zh": ["苹果"]},
        "prompts": {},
        "questions": [],
        "tags": {"group": group},
    }
    text = json.dumps(fields, ensure_ascii=False)
    return [(f"{id}.webp", f"picture of {id}".encode()), (f"{id}.json", text.encode())]


def pack(members: Members) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_data_set(folder: Path, shards: list[bytes], counts: list[int]) -> Path:
    """Write shards with a manifest that agrees with their bytes, whatever they hold."""
    (folder / "shards").mkdir(parents=True)
    (folder / "splits").mkdir()
    entries = []
    for index, (content, count) in enumerate(zip(shards, counts, strict=True)):
        name = f"toy-{index:04d}.tar"
        (folder / "shards" / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append({"file": name, "samples": count, "sha256": digest})
    manifest = {"content_sha256": "abc", "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Two shards with three pairs in an order that is not the ids' own."""
    first = pack(members_of("noto-2B50", "flags") + members_of("flat-1F34E"))
    folder = write_data_set(tmp_path / "toy", [first, pack(members_of("noto-1F34E"))], [2, 1])
    (folder / "splits" / "train.txt").write_text("noto-1F34E\nnoto-2B50\n")
    (folder / "splits" / "test.txt").write_text("flat-1F34E\n")
    return folder


def read_one_shard(tmp_path: Path, content: bytes, count: int = 1) -> list[Pair]:
    return load_pairs(write_data_set(tmp_path / "one", [content], [count]))


def test_pairs_are_complete_and_sorted_by_id(toy: Path) -> None:
    pairs = load_pairs(toy)
    assert [pair.id for pair in pairs] == ["flat-1F34E", "noto-1F34E", "noto-2B50"]
    assert (dict(pairs[0].captions), pairs[0].tags) == (
        {"en": ("apple",), "zh": ("苹果",)},
        {"group": "food"},
    )
    assert pairs[0].picture is not None and pairs[0].picture() == b"picture of flat-1F34E"


def test_a_split_and_tags_choose_pairs(toy: Path) -> None:
    assert [pair.id for pair in load_pairs(toy, "train")] == ["noto-1F34E", "noto-2B50"]
    assert [pair.id for pair in load_pairs(toy, "train", ("group=flags",))] == ["noto-2B50"]
    assert [pair.id for pair in load_pairs(toy, only=("group=flags",))] == ["noto-2B50"]
    assert load_pairs(toy, "test", ("group=flags",)) == []


def test_splits_and_fingerprint_are_read_without_the_shards(toy: Path) -> None:
    for path in (toy / "shards").iterdir():
        path.unlink()
    assert list_splits(toy) == ["test", "train"]
    assert load_split(toy, "train") == ("noto-1F34E", "noto-2B50")
    assert fingerprint(toy) == "abc"


def test_an_unknown_split_lists_the_known_ones(toy: Path) -> None:
    with pytest.raises(DataError, match=r"no split is called 'dev'; the splits are test, train"):
        load_pairs(toy, "dev")


def test_a_split_that_names_an_id_twice_or_is_no_text_is_an_error(toy: Path) -> None:
    path = toy / "splits" / "train.txt"
    path.write_text("noto-1F34E\nnoto-2B50\nnoto-1F34E\n")
    with pytest.raises(DataError, match=r"train\.txt: the id noto-1F34E occurs twice"):
        load_pairs(toy, "train")
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"cannot read .*train.txt"):
        load_split(toy, "train")


def test_a_repeated_id_is_found_in_no_time(tmp_path: Path) -> None:
    ids = [f"pair-{i:06d}" for i in range(50_000)]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("\n".join([*ids, ids[-1]]))
    start = time.process_time()
    with pytest.raises(DataError, match="pair-049999 occurs twice"):
        load_split(tmp_path, "train")
    assert time.process_time() - start < 5  # a minute where each id is looked for in all before


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    for call in (load_pairs, fingerprint):
        with pytest.raises(DataError, match=r"nowhere is not a data set.*give the folder"):
            call(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"content_sha256": "abc"}', "'shards' is missing"),
        ('{"content_sha256": "abc", "shards": {}}', "'shards' must be list, found dict"),
        ('{"content_sha256": "abc", "shards": [{"file": "a.tar"}]}', "'sha256' is missing"),
        ('{"content_sha256": "abc", "shards": [{"file": "../a.tar"}]}', "names no file"),
        ('{"content_sha256": "abc", "shards": [{"file": "/a.tar"}]}', "names no file"),
    ],
)
def test_a_broken_manifest_is_named(toy: Path, text: str, problem: str) -> None:
    (toy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=rf"manifest\.json.*{problem}"):
        load_pairs(toy)


def test_a_missing_shard_is_named(toy: Path) -> None:
    (toy / "shards" / "toy-0001.tar").unlink()
    with pytest.raises(DataError, match=r"toy-0001\.tar is missing"):
        load_pairs(toy, "train")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:700],
        lambda content: content.replace(b"picture of", b"picturE of", 1),
        lambda content: b"",
    ],
    ids=["cut", "one byte", "empty"],
)
def test_a_shard_unlike_the_manifest_is_named(toy: Path, damage: Callable[[bytes], bytes]) -> None:
    path = toy / "shards" / "toy-0000.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"toy-0000\.tar is damaged .*sha256"):
        load_pairs(toy)


@pytest.mark.parametrize("length", [0, 100, 512, 700, 1024, 1300, 1536, 2048, 2600])
def test_a_truncated_tar_is_an_error_even_if_the_manifest_agrees(
    tmp_path: Path, length: int
) -> None:
    """512 bytes a header: the cuts lie in and between headers and contents."""
    content = pack(members_of("noto-1F34E") + members_of("noto-2B50"))
    with pytest.raises(DataError, match=r"toy-0000\.tar.*(truncated|beside)"):
        read_one_shard(tmp_path, content[:length], count=2)


def test_what_is_not_a_tar_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy-0000\.tar is truncated or not a tar"):
        read_one_shard(tmp_path, b"x" * 2000)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (members_of("noto-1F34E")[:1], r"noto-1F34E\.webp has no noto-1F34E\.json"),
        (members_of("noto-1F34E")[1:], r"noto-1F34E\.json has 0 pictures"),
        ([*members_of("a-1"), ("a-1.png", b"")], r"a-1\.json has 2 pictures"),
        (members_of("noto-1F34E") * 2, r"noto-1F34E\.webp occurs twice"),
        ([*members_of("a-1"), ("a-1.txt", b"")], r"a-1\.txt is neither a picture nor"),
        ([("a-1.webp", b""), ("a-1.json", b"{")], r"a-1\.json is not valid JSON"),
        ([("a-1.webp", b""), ("a-1.json", b"\xff\xfe{")], r"a-1\.json is not valid JSON"),
        ([("a-1.webp", b""), ("a-1.json", b"3")], r"a-1\.json: expected a JSON object"),
    ],
)
def test_a_bad_member_is_named(tmp_path: Path, members: Members, problem: str) -> None:
    with pytest.raises(DataError, match=rf"toy-0000\.tar: {problem}"):
        read_one_shard(tmp_path, pack(members))


def test_an_id_in_two_shards_is_an_error(tmp_path: Path) -> None:
    shard = pack(members_of("noto-1F34E"))
    folder = write_data_set(tmp_path / "two", [shard, shard], [1, 1])
    with pytest.raises(DataError, match="two: the id noto-1F34E occurs twice"):
        load_pairs(folder)


def test_a_shard_with_more_than_the_manifest_says_is_an_error(tmp_path: Path) -> None:
    content = pack(members_of("noto-1F34E") + members_of("noto-2B50"))
    with pytest.raises(DataError, match=r"has 2 samples, manifest\.json says 1"):
        read_one_shard(tmp_path, content, count=1)
