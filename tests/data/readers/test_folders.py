import os

import pytest

from tests.data.readers.fixtures import pairs_of, picture, put, six_folder, told
from vilg.data.readers.folders import read_folder


def test_lines_of_a_text_are_captions(tmp_path):
    assert told(read_folder(six_folder(tmp_path))) == [
        ("bird", "bird.png", {"en": ('a bird that says "hello"',)}),
        ("cat", "cat.png", {"en": ("a cat on a mat",), "zh": ("一只猫",)}),
        ("dog", "dog.png", {"en": ("a dog, running",)}),
        ("house", "house.png", {"en": ("a house",)}),
        ("tree", "tree.png", {"en": ("a tree", "a tall tree"), "zh": ("一棵高大的树",)}),
        ("鱼", "鱼.png", {"zh": ("一条红色的鱼",)}),
    ]


def test_pictures_are_read_when_asked_for(tmp_path):
    (pair, *_) = pairs_of(read_folder(six_folder(tmp_path)))
    assert pair.picture() == picture(3)


def test_captions_may_be_in_folders_below_and_end_in_caption(tmp_path):
    put(tmp_path / "a" / "b.c.JPG", picture(1))
    put(tmp_path / "a" / "b.c.caption", "\ufeffone\r\ntwo\rone\n\n")
    (pair,) = read_folder(tmp_path)
    assert (pair.id, pair.place, pair.captions) == ("a/b.c", "a/b.c.JPG", {"en": ("one", "two")})
    assert pair.faults == ("a caption given twice",)


def test_of_two_texts_beside_a_picture_the_other_is_told(tmp_path):
    put(tmp_path / "a.png", picture(1))
    put(tmp_path / "a.txt", "one")
    put(tmp_path / "a.caption", "two")
    (pair,) = read_folder(tmp_path)
    assert pair.captions == {"en": ("one",)}
    assert pair.faults == ("'a.caption' is not read beside 'a.txt'",)


def test_what_is_no_pair_is_told(tmp_path):
    put(tmp_path / "alone.png", picture(1))
    put(tmp_path / "bad.png", picture(1))
    put(tmp_path / "bad.txt", b"\xff\xfe")
    put(tmp_path / "empty.png", picture(1))
    put(tmp_path / "empty.txt", "\n \n")
    put(tmp_path / "lost.txt", "a text")
    put(tmp_path / "README.txt", "what this is")
    put(tmp_path / ".hidden.png", picture(1))
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    assert told(read_folder(tmp_path)) == [
        ("alone.png", "no caption: there is no 'alone.txt' or .caption beside it"),
        ("bad.png", "its text is no UTF-8 (invalid start byte at byte 0)"),
        ("empty.png", "no caption"),
        ("lost.txt", "no picture has this text"),
        ("nowhere.png", "link to nothing"),
    ]


def test_a_picture_that_a_link_leads_to_outside_is_refused(tmp_path):
    put(tmp_path / "secret.png", picture(1))
    put(tmp_path / "folder" / "a.txt", "a secret")
    (tmp_path / "folder" / "a.png").symlink_to(tmp_path / "secret.png")
    ((place, reason),) = told(read_folder(tmp_path / "folder"))
    assert place == "a.png"
    assert reason == f"the picture 'a.png' lies outside of {tmp_path / 'folder'}: name its folder"


def test_a_text_that_a_link_leads_to_outside_is_refused(tmp_path):
    put(tmp_path / "secret.txt", "a secret")
    put(tmp_path / "folder" / "a.png", picture(1))
    (tmp_path / "folder" / "a.txt").symlink_to(tmp_path / "secret.txt")
    assert told(read_folder(tmp_path / "folder")) == [
        ("a.png", f"the text 'a.txt' lies outside of {tmp_path / 'folder'}: name its folder")
    ]


def test_a_name_that_is_no_unicode_is_told_in_text_that_can_be_written(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.png"
    try:
        with open(path, "wb") as file:
            file.write(picture(1))
    except OSError:
        pytest.skip("this file system takes Unicode only")
    (item,) = read_folder(tmp_path)
    assert item.place == "\\udcff.png"
    assert item.reason.encode()
