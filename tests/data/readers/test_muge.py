import base64

import pytest

from tests.data.readers.fixtures import muge, pairs_of, picture, put, told
from vilg.data.pairs import DataError
from vilg.data.readers.muge import read_muge


def read(tmp_path, pictures: bytes, texts: bytes) -> list:
    put(tmp_path / "T2I_val.img.tsv", pictures)
    return list(read_muge(put(tmp_path / "T2I_val.text.tsv", texts)))


def test_texts_and_pictures_meet_by_their_ids(tmp_path):
    items = list(read_muge(muge(tmp_path)))
    assert told(items) == [
        ("2", "T2I_val.text.tsv line 1", {"zh": ("白色的连衣裙",)}),
        ("1", "T2I_val.text.tsv line 2", {"zh": ("红色的鞋",)}),
        ("T2I_val.text.tsv line 3", "there is no picture of the id 4"),
        ("T2I_val.img.tsv line 3", "no text of it"),
    ]
    assert [pair.picture() for pair in pairs_of(items)] == [picture(2), picture(1)]


def test_lines_of_no_use_are_told(tmp_path):
    pictures = b"1\tAAAA\n1\tBBBB\nno tab\n\n2\tCCCC\n3\tDDDD"
    texts = "1\t鞋\n1\t包\n2\t \nno tab\n\n".encode() + b"\xff\t\xff\n" + "3\t帽子".encode()
    assert told(read(tmp_path, pictures, texts)) == [
        ("T2I_val.img.tsv line 2", "a picture of the id 1 stands before it"),
        ("T2I_val.img.tsv line 3", "no tab between an id and a picture"),
        ("1", "T2I_val.text.tsv line 1", {"zh": ("鞋",)}),
        ("T2I_val.text.tsv line 2", "a text of the id 1 stands before it"),
        ("T2I_val.text.tsv line 3", "no caption; an empty caption"),
        ("T2I_val.text.tsv line 4", "no tab between an id and a text"),
        ("T2I_val.text.tsv line 6", "bytes that are no UTF-8"),
        ("3", "T2I_val.text.tsv line 7", {"zh": ("帽子",)}),
    ]


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_large_pictures_in_either_alphabet(encode, tmp_path):
    content = bytes(range(256)) * 5000
    pictures = b"\xef\xbb\xbf1\t" + encode(content) + b"\r\n2\t" + encode(b"two") + b"\r\n"
    first, second = read(tmp_path, pictures, "1\t鞋\r\n2\t包".encode())
    assert (first.picture(), second.picture()) == (content, b"two")


def test_what_is_no_base64_is_told(tmp_path):
    (pair,) = read(tmp_path, b"1\tAAA*", "1\t鞋".encode())
    with pytest.raises(DataError, match=r"T2I_val.img.tsv at byte 2 is no base64: "):
        pair.picture()


def test_without_its_pictures_a_file_of_texts_is_refused(tmp_path):
    path = put(tmp_path / "T2I_test.text.tsv", "1\t鞋\n")
    reason = "its pictures are not there: T2I_test.img.tsv"
    assert told(read_muge(path)) == [("T2I_test.text.tsv", reason)]


def test_pictures_may_lie_elsewhere(tmp_path):
    path = muge(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "T2I_val.img.tsv").rename(tmp_path / "there" / "T2I_val.img.tsv")
    assert len(pairs_of(read_muge(path, tmp_path / "there"))) == 2
