import json
import tarfile

import pytest

from tests.data.readers.fixtures import pairs_of, picture, put, six_tar, tar_of, told
from vilg.data.pairs import DataError
from vilg.data.readers.tars import read_tar

THREE = [
    member
    for number in (1, 2, 3)
    for member in (
        (f"{number}.png", picture(number)),
        (f"{number}.txt", f"picture {number}".encode()),
    )
]


def read(tmp_path, content: bytes) -> list:
    return list(read_tar(put(tmp_path / "x.tar", content)))


def test_members_of_one_name_are_a_pair(tmp_path):
    assert told(read_tar(six_tar(tmp_path))) == [
        ("cat", "six.tar cat", {"en": ("a cat on a mat",), "zh": ("一只猫",)}),
        ("dog", "six.tar dog", {"en": ("a dog, running",)}),
        ("bird", "six.tar bird", {"en": ('a bird that says "hello"',)}),
        ("鱼", "six.tar 鱼", {"zh": ("一条红色的鱼",)}),
        ("tree", "six.tar tree", {"en": ("a tree", "a tall tree"), "zh": ("一棵高大的树",)}),
        ("house", "six.tar house", {"en": ("a house",)}),
    ]


def test_pictures_are_read_when_asked_for(tmp_path):
    path = six_tar(tmp_path)
    first, *_, last = pairs_of(read_tar(path))
    assert (first.picture(), last.picture()) == (picture(1), picture(6))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="ends before byte"):
        last.picture()


def test_json_beside_a_text_says_the_rest(tmp_path):
    fields = {"url": "http://a.invalid", "caption": "old", "key": "000", "width": 8, "lang": "en"}
    (pair,) = read(
        tmp_path,
        tar_of(
            [
                ("./000.jpg", picture(1)),
                ("./000.txt", b"new"),
                ("./000.json", json.dumps(fields).encode()),
            ]
        ),
    )
    assert (pair.id, pair.captions) == ("000", {"en": ("new",)})
    assert pair.tags == {"url": "http://a.invalid", "width": "8"}


@pytest.mark.parametrize(
    "members, place, reason",
    [
        ([("a.txt", b"a")], "x.tar a", "0 pictures (txt)"),
        (
            [("a.png", b"1"), ("a.jpg", b"2"), ("a.txt", b"a")],
            "x.tar a",
            "2 pictures (jpg, png, txt)",
        ),
        ([("a.png", b"1")], "x.tar a", "no caption"),
        ([("a.png", b"1"), ("a.json", b"{")], "x.tar a", "no JSON: "),
        ([("a.png", b"1"), ("a.txt", b"\xff")], "x.tar a", "its text is no UTF-8"),
        ([("._a.png", b"1")], "x.tar ._a.png", "a hidden file, not a picture"),
    ],
)
def test_members_that_are_no_pair_are_told(members, place, reason, tmp_path):
    (item,) = read(tmp_path, tar_of(members))
    assert item.place == place
    assert item.reason.startswith(reason)


def test_hidden_files_do_not_part_a_pair(tmp_path):
    items = read(tmp_path, tar_of([THREE[0], ("._1.txt", b""), THREE[1]]))
    assert told(items) == [
        ("x.tar ._1.txt", "a hidden file, not a picture or a text"),
        ("1", "x.tar 1", {"en": ("picture 1",)}),
    ]


def test_links_are_told(tmp_path):
    link = tarfile.TarInfo("a.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(link)
    assert told(read_tar(tmp_path / "x.tar")) == [
        ("x.tar a.png", "a link or device, not a picture or a text")
    ]


@pytest.mark.parametrize(
    "cut, expected",
    [
        # A member takes a header of 512 bytes and its content in blocks of 512.
        (
            4 * 1024,
            [
                1,
                "x.tar from 2 on: the archive is damaged: it is cut: its closing blocks are not there",
            ],
        ),
        (4 * 1024 - 1, [1, "x.tar from 2 on: the archive is damaged: unexpected end of data"]),
        (4 * 1024 - 510, [1, "x.tar from 2 on: the archive is damaged: it is cut within 2.txt"]),
        (3 * 1024 - 510, [1, "x.tar from 2 on: the archive is damaged: it is cut within 2.png"]),
        (
            2 * 1024 + 100,
            [
                "x.tar from 1 on: the archive is damaged: it is cut: its closing blocks are not there"
            ],
        ),
        (100, ["x.tar: the archive is damaged: truncated header"]),
        (0, ["x.tar: the archive is damaged: empty file"]),
    ],
)
def test_a_cut_archive_is_told(cut, expected, tmp_path):
    content = tar_of(THREE)
    assert max(len(content) for _, content in THREE) <= 512
    items = read(tmp_path, content[:cut])
    assert [
        int(item.id) if item in pairs_of(items) else f"{item.place}: {item.reason}"
        for item in items
    ] == expected


def test_a_broken_header_is_not_the_end(tmp_path):
    content = bytearray(tar_of(THREE))
    content[2048 + 10] ^= 1
    *_, last = read(tmp_path, bytes(content))
    assert last.place == "x.tar from 1 on"
    assert last.reason == "the archive is damaged: no header of a file at byte 2048"


def test_archives_that_were_joined_are_told(tmp_path):
    items = read(tmp_path, tar_of(THREE[:2]) + tar_of(THREE[2:]))
    assert [item.place for item in items] == ["x.tar from 1 on"]
    assert items[0].reason == (
        "the archive is damaged: more follows its end, as in archives that were joined"
    )
