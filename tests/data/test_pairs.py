import pickle
import unicodedata

import pytest

from tests.data.readers.fixtures import put
from vilg.data.pairs import DataError, Pair, Part, Reject, find_picture, make_pair, shown


def test_captions_are_sorted_by_language_and_cleaned():
    texts = [
        (None, " a cat\n"),
        (None, "一只猫"),
        ("EN-gb", "the cat"),
        (None, ""),
        ("en", "a cat"),
    ]
    pair = make_pair("1", "x line 1", None, texts)
    assert isinstance(pair, Pair)
    assert pair.captions == {"en": ("a cat", "the cat"), "zh": ("一只猫",)}
    assert list(pair.captions) == ["en", "zh"]
    assert pair.faults == ("an empty caption", "a caption given twice")


@pytest.mark.parametrize(
    ("told", "lang"),
    [("English", "en"), ("eng_Latn", "en"), ("EN-gb", "en"), ("zho_Hans", "zh"), ("Chinese", "zh")],
)
def test_languages_go_by_other_names_too(told, lang):
    pair = make_pair("a", "here", None, [(told, "红 apple")])
    assert (list(pair.captions), pair.untagged) == ([lang], 0)


@pytest.mark.parametrize(
    "captions, reason",
    [
        ([], "no caption"),
        ([(None, " ")], "no caption; an empty caption"),
        ([("en", " "), ("zh", "")], "no caption; an empty caption"),
        ([("fr", "un chat")], "no caption; a caption in 'fr', which has no token (zh, en have)"),
        ([("\ud800", "?")], "no caption; a caption in '\\ud800', which has no token (zh, en have)"),
        ([("en", "\ud800")], "no caption; a caption that is no Unicode"),
    ],
)
def test_without_a_good_caption_there_is_no_pair(captions, reason):
    assert make_pair("1", "x line 1", None, captions) == Reject(
        place="x line 1", id="1", reason=reason
    )


@pytest.mark.parametrize("id", ["", " ", "\udc80"])
def test_an_id_is_a_text(id):
    item = make_pair(id, "x line 1", None, [("en", "a cat")])
    assert item == Reject(place="x line 1", id=shown(id), reason="its id is no text in Unicode")


def test_many_captions_take_no_more_time_each():
    pair = make_pair("1", "x", None, [("en", f"number {number}") for number in range(20_000)])
    assert isinstance(pair, Pair)
    assert len(pair.captions["en"]) == 20_000


def test_tags_and_places_can_be_written():
    pair = make_pair("1", "\udcff line 1", None, [("en", "a cat")], tags={"\udcff": "\udcfe"})
    assert isinstance(pair, Pair)
    assert (pair.place, pair.tags) == ("\\udcff line 1", {"\\udcff": "\\udcfe"})


def test_the_first_place_that_is_there_is_taken(tmp_path):
    put(tmp_path / "b" / "1.png", b"b")
    put(tmp_path / "c" / "1.png", b"c")
    assert find_picture(tmp_path, "1.png", "b/1.png", "c/1.png")() == b"b"
    with pytest.raises(DataError, match=r"^the picture '2.png' is not there$"):
        find_picture(tmp_path, "2.png", "b/2.png")


@pytest.mark.parametrize(
    "name", ["../outside.png", "a/../../outside.png", "/etc/passwd", "link.png"]
)
def test_what_lies_outside_is_refused_whether_it_is_there_or_not(name, tmp_path):
    put(tmp_path / "outside.png", b"secret")
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "outside.png")
    for _ in range(2):
        with pytest.raises(DataError, match="lies outside of"):
            find_picture(tmp_path / "in", name)
        (tmp_path / "outside.png").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["", " ", "a\0.png", "\ud800.png"])
def test_some_texts_name_no_picture(name, tmp_path):
    with pytest.raises(DataError, match="names no picture"):
        find_picture(tmp_path, name)


def test_folders_and_links_to_themselves_are_no_pictures(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(DataError, match="is not there"):
        find_picture(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"b\.png"):
        find_picture(tmp_path, "b.png")


@pytest.mark.parametrize("on_disk, written", [("NFC", "NFD"), ("NFD", "NFC")])
def test_either_way_of_writing_accents_is_found(on_disk, written, tmp_path):
    put(tmp_path / unicodedata.normalize(on_disk, "é.png"), b"e")
    assert find_picture(tmp_path, unicodedata.normalize(written, "é.png"))() == b"e"


def test_a_part_is_equal_to_what_reads_the_same_and_goes_to_other_processes(tmp_path):
    path = put(tmp_path / "a", b"0123456789")
    part = Part(path, 3, 4)
    assert part() == pickle.loads(pickle.dumps(part))() == b"3456"
    assert part == Part(path, 3, 4) != Part(path, 3, 5)
    with pytest.raises(DataError, match="ends before byte 13"):
        Part(path, 3, 10)()
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*: No such file"):
        part()
