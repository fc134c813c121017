import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from tests.data.readers.fixtures import pairs_of, picture, put_pictures, six_parquet, told
from vilg.data.pairs import DataError
from vilg.data.readers.parquet import read_parquet

STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def read(tmp_path, columns: dict, **options) -> list:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", **options)
    return list(read_parquet(tmp_path / "x.parquet"))


def test_rows_are_pairs(tmp_path):
    assert told(read_parquet(six_parquet(tmp_path))) == [
        ("cat", "six.parquet row 1", {"en": ("a cat on a mat",), "zh": ("一只猫",)}),
        ("dog", "six.parquet row 2", {"en": ("a dog, running",)}),
        ("bird", "six.parquet row 3", {"en": ('a bird that says "hello"',)}),
        ("鱼", "six.parquet row 4", {"zh": ("一条红色的鱼",)}),
        ("tree", "six.parquet row 5", {"en": ("a tree", "a tall tree"), "zh": ("一棵高大的树",)}),
        ("house", "six.parquet row 6", {"en": ("a house",)}),
    ]


def test_pictures_are_read_when_asked_for_in_any_order(tmp_path):
    pairs = pairs_of(read_parquet(six_parquet(tmp_path)))
    for number in (6, 1, 5, 2, 4, 3):
        assert pairs[number - 1].picture() == picture(number)


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
def test_a_column_may_hold_bytes_alone(kind, tmp_path):
    images = pyarrow.array([picture(1), None], kind)
    first, second = read(tmp_path, {"Image": images, "text": ["a", "b"], "style": ["flat", "flat"]})
    assert (first.id, first.picture(), first.tags) == (
        "x.parquet row 1",
        picture(1),
        {"style": "flat"},
    )
    assert (
        second.reason
        == "no picture: none of image, file_name, filename, image_path, picture, path, file is a text"
    )


def test_a_column_may_hold_paths(tmp_path):
    put_pictures(tmp_path, "a.png")
    first, second = read(tmp_path, {"image": ["a.png", "b.png"], "caption": ["a", "b"]})
    assert (first.id, first.picture()) == ("a", picture(1))
    assert (second.place, second.reason) == ("x.parquet row 2", "the picture 'b.png' is not there")


@pytest.mark.parametrize("statistics", [True, False])
def test_a_picture_without_bytes_is_looked_for_by_its_path(statistics, tmp_path):
    put_pictures(tmp_path, "a.png")
    images = [
        {"bytes": None, "path": "a.png"},
        {"bytes": picture(5), "path": None},
        {"bytes": None, "path": None},
        None,
        {"bytes": picture(6), "path": "../b.png"},
    ]
    columns = {"image": pyarrow.array(images, STRUCT), "id": list("vwxyz"), "caption": ["a"] * 5}
    items = read(tmp_path, columns, row_group_size=3, write_statistics=statistics)
    pairs = pairs_of(items)
    assert [(pair.id, pair.picture()) for pair in pairs] == [
        ("v", picture(1)),
        ("w", picture(5)),
        ("z", picture(6)),
    ]
    assert [item.place for item in items if item not in pairs] == [
        "x.parquet row 3",
        "x.parquet row 4",
    ]


def test_neighbours_of_one_id_are_one_pair_only_with_one_picture(tmp_path):
    put_pictures(tmp_path, "a.png")
    items = read(tmp_path, {"image": ["a.png", "a.png"], "caption": ["one", "two"]})
    assert told(items) == [("a", "x.parquet row 1", {"en": ("one", "two")})]


def test_rows_with_bytes_are_not_joined_and_a_list_is_several_captions(tmp_path):
    columns = {"image": [picture(1)] * 2, "caption": [["one", "two"], ["three"]], "id": ["a", "a"]}
    assert told(read(tmp_path, columns)) == [
        ("a", "x.parquet row 1", {"en": ("one", "two")}),
        ("a", "x.parquet row 2", {"en": ("three",)}),
    ]


def test_a_text_that_is_no_unicode_costs_its_own_row(tmp_path):
    put_pictures(tmp_path, "a.png", "b.png")
    captions = pyarrow.array([b"\xff", b"good"]).view(pyarrow.string())
    first, second = read(tmp_path, {"image": ["a.png", "b.png"], "caption": captions})
    assert first.place == "x.parquet row 1"
    assert first.reason.startswith("cannot read it: 'utf-8' codec can't decode")
    assert second.captions == {"en": ("good",)}


def test_a_file_without_pictures_or_that_is_none_is_told(tmp_path):
    (item,) = read(tmp_path, {"url": ["http://a.invalid"], "caption": ["a"]})
    assert item.place == "x.parquet"
    assert item.reason == (
        "no column of pictures (image, file_name, filename, image_path, picture, path, file), "
        "but url, caption"
    )
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (item,) = read_parquet(tmp_path / "x.parquet")
    assert item.place == "x.parquet"


def test_two_columns_of_one_name_are_told(tmp_path):
    (item,) = read(tmp_path, {"image": ["a.png"], "caption": ["a"], "Caption": ["b"]})
    assert item.reason == "two columns of one name among image, caption, Caption"


def test_a_damaged_group_costs_its_rows(tmp_path):
    put_pictures(tmp_path, *(f"{number}.png" for number in range(9)))
    columns = {
        "image": [f"{number}.png" for number in range(9)],
        "caption": [f"number {number}" for number in range(9)],
    }
    read(
        tmp_path,
        columns,
        row_group_size=3,
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
    )
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[content.index(b"number 4")] ^= 1
    (tmp_path / "x.parquet").write_bytes(content)
    items = list(read_parquet(tmp_path / "x.parquet"))
    assert [item.place for item in items] == [
        f"x.parquet row {number}" for number in (1, 2, 4, 3, 7, 8, 9)
    ]
    assert items[2].reason.startswith("rows up to 6 cannot be read: ")


def test_a_file_that_changes_under_a_pair_is_told(tmp_path):
    path = six_parquet(tmp_path)
    (pair, *_) = pairs_of(read_parquet(path))
    path.write_bytes(b"PAR1")
    with pytest.raises(
        DataError, match=r"cannot read the picture of .*six.parquet group 1 row 1: "
    ):
        pair.picture()


def test_without_pyarrow_one_sentence_says_how_to_get_it(tmp_path):
    six_parquet(tmp_path)
    program = (
        "import importlib.util as util, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'pyarrow' else find(name, *rest)\n"
        "from vilg.data.sources import open_source\n"
        "from vilg.errors import VilgError\n"
        "try:\n"
        "    list(open_source(sys.argv[1]))\n"
        "except VilgError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "six.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "pyarrow not found: reading parquet needs the extra: run `make install`"
    )
    assert "PLACE[data]" in done.stdout
