from pathlib import Path

import pytest

from tests.data.readers.fixtures import (
    FIXTURES,
    pairs_of,
    picture,
    put,
    six_csv,
    six_folder,
    six_jsonl,
    six_metadata,
    six_parquet,
    six_tar,
    six_tsv,
    told,
)
from vilg.data.pairs import DataError, Reject
from vilg.data.sources import FORMATS, open_source


@pytest.mark.parametrize("name", FIXTURES)
def test_each_format_is_recognised(name, tmp_path):
    make, expected, _ = FIXTURES[name]
    assert open_source(str(make(tmp_path))).format.name == expected


@pytest.mark.parametrize("name", FIXTURES)
def test_no_other_format_claims_a_file_or_its_folder(name, tmp_path):
    make, expected, _ = FIXTURES[name]
    source = make(tmp_path)
    # A folder whose captions lie in a file of their own is a folder of pictures too, but that comes last.
    general = {"folder", "JSON lines"} if expected == "metadata" else {"folder"}
    places = [source] if source.is_dir() or name == "prompts" else [source, tmp_path]
    for place in places:
        claims = {format.name for format in FORMATS if format.files(place)}
        assert claims - general == {expected} - general


@pytest.mark.parametrize("name", FIXTURES)
def test_the_folder_of_a_file_reads_as_the_file(name, tmp_path):
    make, _, _ = FIXTURES[name]
    source = make(tmp_path)
    if name == "prompts":  # whose folder would be one of captions
        with pytest.raises(DataError):
            open_source(str(tmp_path), name="prompts")
        return
    left_out = "left out beside Flickr8k.token.txt: give it by itself to read it"
    items = [item for item in open_source(str(tmp_path)) if getattr(item, "reason", "") != left_out]
    assert told(items) == told(open_source(str(source)))


@pytest.mark.parametrize(
    "make",
    [six_jsonl, six_metadata, six_csv, six_tsv, six_tar, six_parquet],
    ids=lambda make: make.__name__,
)
def test_the_same_pairs_read_equal_from_any_store(make, tmp_path):
    def seen(source: Path) -> list[tuple[object, ...]]:
        items = list(open_source(str(source)))
        assert not [item for item in items if isinstance(item, Reject)]
        pairs = sorted(pairs_of(items), key=lambda pair: pair.id)
        return [(pair.id, pair.captions, pair.picture and pair.picture()) for pair in pairs]

    expected = seen(six_folder(tmp_path / "folder"))
    assert len(expected) == 6
    assert seen(make(tmp_path / "other")) == expected


def test_a_glob_reads_files_in_order(tmp_path):
    for name in ("b", "a"):
        put(tmp_path / f"{name}.txt.jsonl", f'{{"prompt": "prompt {name}"}}\n')
    source = open_source(str(tmp_path / "*.jsonl"))
    assert [pair.captions["en"] for pair in pairs_of(source)] == [("prompt a",), ("prompt b",)]


def test_a_format_that_is_named_is_not_guessed(tmp_path):
    path = put(tmp_path / "strange.json", '{"id": "a", "image": "a.png"}')
    with pytest.raises(DataError, match="holds nothing that is known"):
        open_source(str(path))
    source = open_source(str(path), name="JSON lines")
    assert [item.reason for item in source] == ["the picture 'a.png' is not there"]
    with pytest.raises(
        DataError, match="no format is called 'xml'; there are packed, metadata, tar,"
    ):
        open_source(str(path), name="xml")


@pytest.mark.parametrize(
    "name, content", [("x.csv", "a,b\n1,2\n"), ("x.json", "[]"), ("x.bin", b"\0")]
)
def test_what_is_no_source_is_told_what_was_looked_for(name, content, tmp_path):
    with pytest.raises(
        DataError, match=r"looked for: metadata.jsonl .* COCO|captions_val2014.json"
    ):
        open_source(str(put(tmp_path / name, content)))


def test_a_name_that_no_file_can_have_is_one_sentence():
    with pytest.raises(DataError, match=r"cannot read xxxx.*: File name too long"):
        open_source("x" * 5000)


def test_a_file_that_goes_away_is_one_sentence(tmp_path):
    source = open_source(str(six_jsonl(tmp_path)))
    (tmp_path / "six.jsonl").unlink()
    with pytest.raises(DataError, match=r"cannot read .*six.jsonl: No such file"):
        list(source)


def test_a_file_whose_name_is_no_unicode_has_places_that_can_be_written(tmp_path):
    path = tmp_path / "\udcff.jsonl"
    try:
        path.write_text('{"image": "a.png"}')
    except OSError:
        pytest.skip("this file system takes Unicode only")
    (item,) = open_source(str(path))
    assert item.place == "\\udcff.jsonl line 1"


def test_rejects_are_not_among_chosen_pairs(tmp_path):
    """Nobody knows whether they would have been chosen, and they would count as left out."""
    put(tmp_path / "a.png", "a picture")
    lines = [f'{{"image": "a.png", "id": "{id}", "caption": "{id}"}}\n' for id in "ab"]
    path = put(tmp_path / "a.jsonl", "".join(lines) + "[]\n")
    ids = put(tmp_path / "ids.txt", "b\n")
    assert [type(item).__name__ for item in open_source(str(path))] == ["Pair", "Reject", "Pair"]
    (only,) = open_source(str(path), ids=ids)
    assert only.captions == {"en": ("b",)}


def test_two_stars_go_down_any_number_of_folders(tmp_path):
    for name in ("a", "b/c", "b/d/e"):
        put(tmp_path / f"{name}.jsonl", f'{{"prompt": "prompt {name}"}}\n')
    source = open_source(str(tmp_path / "**" / "*.jsonl"))
    assert [pair.captions["en"] for pair in pairs_of(source)] == [
        ("prompt a",),
        ("prompt b/c",),
        ("prompt b/d/e",),
    ]


def test_a_walk_sees_links_as_they_are_then(tmp_path):
    put(tmp_path / "there" / "a.png", picture(1))
    path = put(tmp_path / "in" / "x.jsonl", '{"image": "sub/a.png", "caption": "one"}')
    link = tmp_path / "in" / "sub"
    link.symlink_to(tmp_path / "there")
    source = open_source(str(path))
    assert [item.reason for item in source] == [
        f"the picture 'sub/a.png' lies outside of {tmp_path / 'in'}: name its folder"
    ]
    link.unlink()
    (tmp_path / "there").rename(link)
    assert [pair.id for pair in pairs_of(source)] == ["sub/a"]
