"""Captions in one JSON file: COCO's (of 2014 and 2017, and whatever has its form) and AIC-ICC's."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Items
from vilg.data.readers.annotations import Note, Notes, root_of
from vilg.data.readers.json_files import each, list_of, read_json, text_of
from vilg.data.readers.records import Record, name_of


def read_coco(path: Path, pictures: Path | None = None) -> Items:
    """Read `images` and the `annotations` that name them; the file is read whole.

    A picture may lie beside the file, in a folder of its part (`val2014`) or in `images`.
    """
    return read_json(path, _coco_notes, root_of(path, pictures))


def _coco_notes(content: Any, path: Path) -> Notes:
    images, names = dict[str, Note](), set[str]()
    items, said = list_of(content, "images"), list_of(content, "annotations")

    def image(item: Record, place: str) -> Note:
        key, file = text_of(item, "id"), text_of(item, "file_name")
        if key in images or file in names:
            raise DataError(f"an image of the id {key} or the name {file!r} stands before it")
        names.add(file)
        split = split_of(file) or split_of(path.name)
        places = (file, *([f"{split}/{file}"] if split else []), f"images/{file}")
        images[key] = Note(place=place, id=name_of(file), names=places)
        return images[key]

    yield from each(items, f"{path.name} images", image)
    yield from each(
        said, f"{path.name} annotations", partial(_coco_caption, images=images, seen=set[str]())
    )


def _coco_caption(item: Record, place: str, images: Mapping[str, Note], seen: set[str]) -> Note:
    key, caption = text_of(item, "image_id"), item.get("caption")
    if key not in images:
        raise DataError(f"there is no image of the id {key}")
    if not isinstance(caption, str) or not caption.strip():
        raise DataError("it has no caption")
    if "id" in item:
        id = text_of(item, "id")
        if id in seen:
            raise DataError(f"an annotation of the id {id} stands before it")
        seen.add(id)
    return replace(images[key], place=place, captions=((None, caption),))


def read_aic(path: Path, pictures: Path | None = None) -> Items:
    """Read a list of pictures with five Chinese captions each; the file is read whole.

    A picture may lie beside the file or in the archive's folder: `caption_train_images_20170902` beside
    `caption_train_annotations_20170902.json`.
    """
    return read_json(path, _aic_notes, root_of(path, pictures))


def _aic_notes(content: Any, path: Path) -> Notes:
    if not isinstance(content, list):
        raise DataError("it is no list")
    folder = path.stem.replace("annotations", "images")
    seen = set[str]()

    def note(item: Record, place: str) -> Note:
        file, captions = text_of(item, "image_id"), item.get("caption")
        if file in seen:
            raise DataError(f"{file} stands before it")
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise DataError("its captions are no list of texts")
        seen.add(file)
        return Note(
            place=place,
            id=name_of(file),
            names=(file, f"{folder}/{file}"),
            captions=tuple(("zh", text.strip().removesuffix("。")) for text in captions),
        )

    return each(content, path.name, note)


def split_of(name: str) -> str | None:
    """Return the part of COCO that a name tells: "val2014"."""
    found = re.search(r"(train|val|test)20\d\d", name)
    return found and found[0]


def coco_names(number: str, split: str) -> tuple[str, ...]:
    """Return where COCO's picture of a number may lie, by the names of 2014 and of 2017.

    Raises:
        DataError: no number.
    """
    if not (number.isascii() and number.isdigit() and len(number) <= 12):
        raise DataError(f"image_id {number!r} is no number of up to 12 digits")
    new = f"{number:0>12}.jpg"
    old = f"COCO_{split}_{new}"
    return (
        old,
        f"{split}/{old}",
        new,
        *(f"{part}/{new}" for part in (split, "train2017", "val2017")),
    )
