import os

import pytest

from tests.data.readers.fixtures import (
    coco_cn,
    flickr8k,
    flickr8k_cn,
    flickr30k,
    flickr_table,
    pairs_of,
    picture,
    put,
    put_pictures,
    told,
)
from vilg.data.readers.numbered import read_flickr, read_numbered

PEOPLE = "imageid.human-written-caption.txt"


def test_coco_cn(tmp_path):
    items = list(read_numbered(coco_cn(tmp_path)))
    assert told(items) == [
        (
            "imageid.manually-translated-caption.txt",
            f"left out beside {PEOPLE}: give it by itself to read it",
        ),
        ("imageid.human-written-tags.txt line 3", "no tags"),
        ("coco-cn_test.txt line 2", "no caption of it"),
        ("COCO_val2014_000000000009", f"{PEOPLE} line 1", {"zh": ("一盘菜。", "桌子上有菜。")}),
        ("COCO_val2014_000000000025", f"{PEOPLE} line 2", {"zh": ("长颈鹿站在树下。",)}),
    ]
    assert [pair.tags for pair in pairs_of(items)] == [
        {"split": "train", "tags": "盘子 菜"},
        {"split": "test"},
    ]
    assert pairs_of(items)[1].picture() == picture(2, "JPEG")


def test_coco_cn_with_pictures_by_the_names_of_2017(tmp_path):
    folder = coco_cn(tmp_path / "captions")
    put_pictures(tmp_path / "pictures" / "train2017", "000000000009.jpg")
    put_pictures(tmp_path / "pictures", "000000000025.jpg")
    assert len(pairs_of(read_numbered(folder, tmp_path / "pictures"))) == 2


def test_a_file_of_translations_is_read_by_itself(tmp_path):
    path = coco_cn(tmp_path) / "imageid.manually-translated-caption.txt"
    (pair,) = pairs_of(read_numbered(path))
    assert pair.captions == {"zh": ("两只长颈鹿。",)}


def test_flickr8k(tmp_path):
    items = list(read_flickr(flickr8k(tmp_path)))
    assert told(items) == [
        ("1000_a", "Flickr8k.token.txt line 1", {"en": ("A dog runs .", "A brown dog .")}),
        ("1001_b", "Flickr8k.token.txt line 3", {"en": ("A girl .",)}),
    ]
    assert [pair.tags for pair in pairs_of(items)] == [{"split": "train"}, {}]
    assert items[0].picture() == picture(1, "JPEG")


def test_flickr30k(tmp_path):
    assert told(read_flickr(flickr30k(tmp_path))) == [
        ("1000092795", "results_20130124.token line 1", {"en": ("Two young guys .",)})
    ]


def test_newer_tables_of_flickr(tmp_path):
    assert told(read_flickr(flickr_table(tmp_path))) == [
        ("1000_a", "captions.txt line 2", {"en": ("A dog runs .", "A dog , brown .")}),
        ("1001_b", "captions.txt line 4", {"en": ("A girl .",)}),
    ]


def test_flickr8k_cn(tmp_path):
    items = list(read_numbered(flickr8k_cn(tmp_path)))
    assert told(items) == [
        (
            "flickr8kzhb.caption.txt",
            "left out beside flickr8kenc.caption.txt: give it by itself to read it",
        ),
        ("flickr8ktest.txt line 2", "no caption of it"),
        (
            "1000_a",
            "flickr8kenc.caption.txt line 1",
            {"en": ("A dog runs .",), "zh": ("一条狗在跑",)},
        ),
        ("1001_b", "flickr8kzhc.caption.txt line 2", {"zh": ("一个女孩",)}),
    ]
    assert [pair.tags for pair in pairs_of(items)] == [{"split": "train"}, {"split": "test"}]


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"a.jpg A cat", "no line of the form PICTURE#NUMBER and a caption"),
        (b"a.jpg#x\tA cat", "no line of the form PICTURE#NUMBER and a caption"),
        (b"a.jpg#1\t ", "an empty caption"),
        (b"a.jpg#1\t\xff", "bytes that are no UTF-8"),
        (b"a.jpg#0\tA cat", "a.jpg#0 stands before it"),
    ],
)
def test_lines_of_no_use_are_told(line, reason, tmp_path):
    put_pictures(tmp_path, "a.jpg")
    path = put(tmp_path / "x.token.txt", b"a.jpg#0\tA dog\r\n\r\n" + line + b"\r\n")
    assert told(read_numbered(path)) == [
        ("x.token.txt line 3", reason),
        ("a", "x.token.txt line 1", {"en": ("A dog",)}),
    ]


def test_pictures_that_are_not_there_are_told_once(tmp_path):
    path = put(tmp_path / "x.token.txt", "a.jpg#0\tA dog\na.jpg#1\tA cat\n../b.jpg#0\tA cow\n")
    lies = f"the picture '../b.jpg' lies outside of {tmp_path}: name its folder"
    assert told(read_numbered(path)) == [
        (
            "x.token.txt line 1",
            "the picture 'a.jpg' is not there (2 captions and questions go with it)",
        ),
        ("x.token.txt line 3", f"{lies} (1 captions and questions go with it)"),
    ]


def test_a_pipe_is_no_file_of_a_split(tmp_path):
    folder = flickr8k_cn(tmp_path)
    (folder / "flickr8ktest.txt").unlink()
    os.mkfifo(folder / "flickr8ktest.txt")
    assert len(pairs_of(read_numbered(folder))) == 2
