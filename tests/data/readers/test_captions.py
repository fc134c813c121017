import pytest

from tests.data.readers.fixtures import (
    aic,
    coco,
    coco_2017,
    pairs_of,
    picture,
    put,
    put_pictures,
    told,
)
from vilg.data.readers.captions import read_aic, read_coco


def read_coco_of(tmp_path, **changes: object) -> list:
    put_pictures(tmp_path, "a.jpg", "b.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 1, "caption": "an a"},
            {"id": 2, "image_id": 2, "caption": "a b"},
        ],
    }
    return told(read_coco(put(tmp_path / "x.json", {**content, **changes})))


A = ("a", "x.json images item 1", {"en": ("an a",)})
B = ("b", "x.json images item 2", {"en": ("a b",)})


def test_coco_of_2014(tmp_path):
    items = list(read_coco(coco(tmp_path)))
    assert told(items) == [
        (
            "COCO_val2014_000000000009",
            "captions_val2014.json images item 1",
            {"en": ("A plate of food.",)},
        ),
        (
            "COCO_val2014_000000000025",
            "captions_val2014.json images item 2",
            {"en": ("A giraffe by a tree.", "Two giraffes.")},
        ),
        (
            "captions_val2014.json images item 3",
            "the picture 'COCO_val2014_000000000030.jpg' is not there (1 captions and questions go with it)",
        ),
    ]
    assert pairs_of(items)[1].picture() == picture(2, "JPEG")


def test_coco_of_2017(tmp_path):
    assert told(read_coco(coco_2017(tmp_path))) == [
        ("000000000009", "captions_val2017.json images item 1", {"en": ("A plate.",)})
    ]


def test_pictures_of_coco_may_lie_elsewhere(tmp_path):
    path = coco(tmp_path / "a")
    (tmp_path / "a" / "val2014").rename(tmp_path / "pictures")
    assert pairs_of(read_coco(path)) == []
    assert len(pairs_of(read_coco(path, tmp_path / "pictures"))) == 2


@pytest.mark.parametrize(
    "annotation, reason",
    [
        ({"id": 3, "image_id": 9, "caption": "?"}, "there is no image of the id 9"),
        ({"id": 2, "image_id": 2, "caption": "a b"}, "an annotation of the id 2 stands before it"),
        ({"id": 3, "image_id": 2, "caption": " "}, "it has no caption"),
        ({"id": 3, "image_id": 2}, "it has no caption"),
        ({"id": 3, "caption": "?"}, "image_id is no text or number"),
        ({"id": 3, "image_id": True, "caption": "?"}, "image_id is no text or number"),
        ("?", "no JSON object but str"),
    ],
)
def test_annotations_of_no_use_are_told(annotation, reason, tmp_path):
    good = [{"id": id, "image_id": id, "caption": text} for id, text in ((1, "an a"), (2, "a b"))]
    items = read_coco_of(tmp_path, annotations=[*good, annotation])
    assert items == [("x.json annotations item 3", reason), A, B]


def test_a_key_that_stands_twice_in_an_item_is_told(tmp_path):
    put_pictures(tmp_path, "a.jpg")
    text = (
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": '
        '[{"image_id": 1, "caption": "one", "caption": "two"}, {"image_id": 1, "caption": "an a"}]}'
    )
    assert told(read_coco(put(tmp_path / "x.json", text))) == [
        ("x.json annotations item 1", "a key stands twice in one object"),
        A,
    ]


def test_images_of_no_use_are_told(tmp_path):
    images = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 1, "file_name": "b.jpg"},
        {"id": 3, "file_name": "a.jpg"},
        {"id": 2, "file_name": "b.jpg"},
        {"id": 4, "file_name": "c.jpg"},
        {"id": 5},
        {"id": 6, "file_name": "../b.jpg"},
    ]
    items = read_coco_of(tmp_path, images=images)
    lies = f"the picture '../b.jpg' lies outside of {tmp_path}: name its folder"
    before = "an image of the id {} or the name {!r} stands before it"
    assert items == [
        ("x.json images item 2", before.format(1, "b.jpg")),
        ("x.json images item 3", before.format(3, "a.jpg")),
        ("x.json images item 6", "file_name is no text or number"),
        A,
        ("b", "x.json images item 4", {"en": ("a b",)}),
        (
            "x.json images item 5",
            "the picture 'c.jpg' is not there (0 captions and questions go with it)",
        ),
        ("x.json images item 7", f"{lies} (0 captions and questions go with it)"),
    ]


def test_an_image_without_a_caption_is_told(tmp_path):
    items = read_coco_of(tmp_path, annotations=[{"id": 1, "image_id": 1, "caption": "an a"}])
    assert items == [A, ("x.json images item 2", "no caption")]


def test_two_names_of_one_picture_are_told(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "./a.jpg"}]
    assert read_coco_of(tmp_path, images=images) == [
        A,
        ("x.json images item 2", "its picture is that of a"),
    ]


@pytest.mark.parametrize(
    "content, reason",
    [
        (b'{"images": [', "no JSON: Expecting value"),
        (b"\xff\xff", "no JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "no JSON: maximum recursion depth"),
        ({"images": []}, "it has no list 'annotations'"),
        ([], "it has no list 'images'"),
        (b'{"images": [], "images": [], "annotations": []}', "it has two lists 'images'"),
    ],
)
def test_a_file_of_another_form_is_told(content, reason, tmp_path):
    ((place, told_reason),) = told(read_coco(put(tmp_path / "x.json", content)))
    assert place == "x.json"
    assert told_reason.startswith(reason)


def test_aic_icc(tmp_path):
    items = list(read_aic(aic(tmp_path)))
    name = "caption_validation_annotations_20170910.json"
    five = tuple(f"{number}个穿红衣服的人在跑步" for number in "一两三四五")
    assert told(items) == [
        ("3cd3", f"{name} item 1", {"zh": five}),
        ("88a0", f"{name} item 2", {"zh": ("一条狗", "狗")}),
    ]
    assert items[1].faults == ("an empty caption",)
    assert items[1].picture() == picture(2, "JPEG")


def test_aic_items_of_no_use_are_told(tmp_path):
    put_pictures(tmp_path, "a.jpg")
    items = [
        {"image_id": "a.jpg", "caption": ["TV", "TV。"]},
        {"image_id": "a.jpg", "caption": ["狗"]},
        {"image_id": "b.jpg", "caption": ["狗"]},
        {"image_id": "c.jpg", "caption": "狗"},
        {"image_id": None, "caption": ["狗"]},
        7,
    ]
    assert told(read_aic(put(tmp_path / "x.json", items))) == [
        ("x.json item 2", "a.jpg stands before it"),
        ("x.json item 4", "its captions are no list of texts"),
        ("x.json item 5", "image_id is no text or number"),
        ("x.json item 6", "no JSON object but int"),
        ("a", "x.json item 1", {"zh": ("TV",)}),
        ("x.json item 3", "the picture 'b.jpg' is not there (1 captions and questions go with it)"),
    ]
    assert told(read_aic(put(tmp_path / "x.json", {}))) == [("x.json", "it is no list")]
