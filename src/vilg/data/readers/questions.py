"""Questions about pictures in JSON files: VQAv2, GQA and FM-IQA. The files are read whole."""

from functools import partial
from pathlib import Path
from typing import Any

from vilg.data.pairs import DataError, Items, Question, Reject
from vilg.data.readers.annotations import Note, Notes, root_of
from vilg.data.readers.captions import coco_names, split_of
from vilg.data.readers.json_files import Doubled, each, list_of, load_json, read_json, text_of
from vilg.data.readers.records import QUESTION, QUESTION_ID, Record, questions_of


def read_vqa(path: Path, pictures: Path | None = None) -> Items:
    """Read VQAv2's questions, with the answers of the file of annotations beside them.

    `v2_OpenEnded_mscoco_val2014_questions.json` goes with `v2_mscoco_val2014_annotations.json`. Where that
    is not there, as for the test's, the questions have no answers, and that is a fault of each pair.
    """
    return read_json(path, _vqa_notes, root_of(path, pictures))


def answers_beside(path: Path) -> Path:
    """Return the file with the answers to a file of questions."""
    name = path.name.replace("OpenEnded_", "").replace("MultipleChoice_", "")
    return path.with_name(name.replace("questions", "annotations"))


def _vqa_notes(content: Any, path: Path) -> Notes:
    questions, annotations = list_of(content, "questions"), answers_beside(path)
    split = str(content.get("data_subtype") or split_of(path.name) or "train2014")
    answers, missing = dict[str, Record](), ""
    if annotations == path or not annotations.is_file():
        missing = f"its questions have no answers: {annotations.name} is not there"
    else:
        keys = {
            str(item["question_id"])
            for item in questions
            if isinstance(item, dict) and "question_id" in item
        }
        yield from _vqa_answers(annotations, keys, answers)
    seen = set[str]()

    def note(item: Record, place: str) -> Note:
        key, number = _once(item, seen), text_of(item, "image_id")
        faults = (
            (missing,) if missing else () if key in answers else (f"question {key}: no answers",)
        )
        return Note(
            place=place,
            id=f"COCO_{split}_{number:0>12}",
            names=coco_names(number, split),
            questions=_questions(item, answers.get(key, {}).get("answers")),
            faults=faults,
        )

    yield from each(questions, path.name, note)


def _vqa_answers(path: Path, keys: set[str], answers: dict[str, Record]) -> Notes:
    """Put the annotations by their questions' ids into `answers`; yield those of no use."""

    def note(item: Record, place: str) -> Note:
        key = text_of(item, "question_id")
        if key not in keys:
            raise DataError(f"there is no question {key}")
        if key in answers:
            raise DataError(f"answers to question {key} stand before it")
        answers[key] = item
        return Note(place=place, id=key, names=())

    try:
        for item in each(list_of(load_json(path), "annotations"), path.name, note):
            if isinstance(item, Reject):
                yield item
    except DataError as error:
        yield Reject(place=path.name, reason=str(error))


def read_gqa(path: Path, pictures: Path | None = None) -> Items:
    """Read an object of GQA's questions by their ids; pictures lie in `images` or beside the file."""
    return read_json(path, _gqa_notes, root_of(path, pictures))


def _gqa_notes(content: Any, path: Path) -> Notes:
    if not isinstance(content, dict):
        raise DataError("it is no object of questions by id")
    fields = content.fields if isinstance(content, Doubled) else list(content.items())
    seen = set[str]()

    def note(item: Record, place: str) -> Note:
        key, image = item["key"], text_of(item, "imageId")
        if key in seen:
            raise DataError(f"a question of the id {key} stands before it")
        seen.add(key)
        name = f"{image}.jpg"
        questions = _questions({**item, QUESTION_ID: key}, item.get("answer"))
        return Note(place=place, id=image, names=(name, f"images/{name}"), questions=questions)

    items = ({**item, "key": key} if type(item) is dict else item for key, item in fields)
    return each(items, path.name, note)


def read_fmiqa(path: Path, pictures: Path | None = None) -> Items:
    """Read FM-IQA's Chinese questions about pictures of COCO's of 2014, in a list for each split."""
    return read_json(path, _fmiqa_notes, root_of(path, pictures))


def _fmiqa_notes(content: Any, path: Path) -> Notes:
    seen = set[str]()
    splits = [
        name for name in ("train", "val", "test") if isinstance(content, dict) and name in content
    ]
    if not splits:
        raise DataError("it has no list 'train', 'val' or 'test'")
    for split in splits:
        note = partial(_fmiqa_note, split=split, seen=seen)
        yield from each(list_of(content, split), f"{path.name} {split}", note)


def _fmiqa_note(item: Record, place: str, split: str, seen: set[str]) -> Note:
    key, number = _once(item, seen), text_of(item, "image_id")
    plain = {QUESTION: item.get("Question"), QUESTION_ID: key, "lang": "zh"}
    return Note(
        place=place,
        id=f"COCO_{split}2014_{number:0>12}",
        names=coco_names(number, f"{split}2014"),
        questions=_questions(plain, item.get("Answer")),
        tags={"split": split},
    )


def _once(item: Record, seen: set[str]) -> str:
    """Return the id of a question that did not come before."""
    key = text_of(item, "question_id")
    if key in seen:
        raise DataError(f"a question of the id {key} stands before it")
    seen.add(key)
    return key


def _questions(item: Record, answers: Any) -> tuple[Question, ...]:
    found = questions_of({**item, "answers": answers, "answer": None})
    if not found:
        raise DataError("a question without a text")
    return found
