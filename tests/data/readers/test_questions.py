import json

import pytest

from tests.data.readers.fixtures import fmiqa, gqa, pairs_of, picture, put, put_pictures, vqa
from vilg.data.pairs import Items, Reject
from vilg.data.readers.questions import read_fmiqa, read_gqa, read_vqa


def told(items: Items) -> list[tuple[object, ...]]:
    return [
        (item.place, item.reason)
        if isinstance(item, Reject)
        else (
            item.id,
            item.place,
            [(question.lang, question.text, question.answers) for question in item.questions],
        )
        for item in items
    ]


def change(path, change_of) -> None:
    content = json.loads(path.read_text())
    change_of(content)
    put(path, content)


def test_vqa(tmp_path):
    items = list(read_vqa(vqa(tmp_path)))
    ten = ("yes",) * 7 + ("no",) * 3
    assert told(items) == [
        (
            "COCO_val2014_000000000009",
            "v2_OpenEnded_mscoco_val2014_questions.json item 1",
            [("en", "Is the plate full?", ten), ("en", "How many spoons?", ("2",))],
        )
    ]
    assert items[0].picture() == picture(1, "JPEG")
    assert items[0].faults == ()
    assert [question.id for question in items[0].questions] == ["9000", "9001"]


def test_vqa_without_answers_says_so(tmp_path):
    path = vqa(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").unlink()
    (pair,) = read_vqa(path)
    assert [question.answers for question in pair.questions] == [(), ()]
    missing = "its questions have no answers: v2_mscoco_val2014_annotations.json is not there"
    assert set(pair.faults) == {missing}


def test_vqa_items_of_no_use_are_told(tmp_path):
    path = vqa(tmp_path)
    extra = [
        {"image_id": 9, "question": "Again?", "question_id": 9000},
        {"image_id": 25, "question": "What?", "question_id": 9002},
        {"image_id": 9, "question": "", "question_id": 9003},
        {"image_id": "x", "question": "What?", "question_id": 9004},
        {"image_id": 9, "question": "Who?", "question_id": 9005},
    ]
    change(path, lambda content: content["questions"].extend(extra))
    answers = tmp_path / "v2_mscoco_val2014_annotations.json"
    more = [{"question_id": 1, "answers": []}, {"question_id": 9000, "answers": []}]
    change(answers, lambda content: content["annotations"].extend(more))
    items = list(read_vqa(path))
    *rejects, pair, last = told(items)
    name = path.name
    assert rejects == [
        ("v2_mscoco_val2014_annotations.json item 3", "there is no question 1"),
        ("v2_mscoco_val2014_annotations.json item 4", "answers to question 9000 stand before it"),
        (f"{name} item 3", "a question of the id 9000 stands before it"),
        (f"{name} item 5", "a question without a text"),
        (f"{name} item 6", "image_id 'x' is no number of up to 12 digits"),
    ]
    assert len(pair[2]) == 3
    assert items[-2].faults == ("question 9005: no answers",)
    assert last == (
        f"{name} item 4",
        "the picture 'COCO_val2014_000000000025.jpg' is not there (1 captions and questions go with it)",
    )


def test_broken_answers_of_vqa_are_told(tmp_path):
    path = vqa(tmp_path)
    put(tmp_path / "v2_mscoco_val2014_annotations.json", "{")
    first, pair = read_vqa(path)
    assert first.place == "v2_mscoco_val2014_annotations.json"
    assert first.reason.startswith("no JSON: ")
    assert pair.faults == ("question 9000: no answers", "question 9001: no answers")


def test_gqa(tmp_path):
    items = list(read_gqa(gqa(tmp_path)))
    assert told(items) == [
        (
            "2354786",
            "val_balanced_questions.json item 1",
            [("en", "Is the sky dark?", ("yes",)), ("en", "Is it a bird?", ("no",))],
        ),
        (
            "n161313",
            "val_balanced_questions.json item 2",
            [("en", "What is on the wall?", ("pipe",))],
        ),
    ]
    assert items[1].picture() == picture(2, "JPEG")


def test_gqa_items_of_no_use_are_told(tmp_path):
    put_pictures(tmp_path, "1.jpg")
    good = '{"imageId": "1", "question": "What?", "answer": "it"}'
    fields = [
        f'"a": {good}',
        f'"a": {good}',
        '"b": []',
        '"c": {"imageId": "2", "question": "Who?"}',
    ]
    fields += ['"d": {"imageId": "1"}', '"e": {"question": "Who?"}']
    fields += ['"f": {"imageId": "1", "question": "Who?", "answer": 2}']
    fields += ['"g": {"imageId": "1", "question": "Who?", "question": "What?"}']
    path = put(tmp_path / "x.json", "{" + ", ".join(fields) + "}")
    assert told(read_gqa(path)) == [
        ("x.json item 2", "a question of the id a stands before it"),
        ("x.json item 3", "no JSON object but list"),
        ("x.json item 5", "a question without a text"),
        ("x.json item 6", "imageId is no text or number"),
        ("x.json item 7", "an answer that is no text"),
        ("x.json item 8", "a key stands twice in one object"),
        ("1", "x.json item 1", [("en", "What?", ("it",))]),
        ("x.json item 4", "the picture '2.jpg' is not there (1 captions and questions go with it)"),
    ]


def test_fmiqa(tmp_path):
    items = list(read_fmiqa(fmiqa(tmp_path)))
    assert told(items) == [
        (
            "COCO_train2014_000000000009",
            "FM-IQA.json train item 1",
            [("zh", "这是什么？", ("一盘菜。",)), ("zh", "有几把勺子？", ("两把。",))],
        ),
        (
            "COCO_val2014_000000000025",
            "FM-IQA.json val item 1",
            [("zh", "这是什么？", ("长颈鹿。",))],
        ),
    ]
    assert [pair.tags for pair in pairs_of(items)] == [{"split": "train"}, {"split": "val"}]
    assert items[1].picture() == picture(1, "JPEG")


def test_fmiqa_items_of_no_use_are_told(tmp_path):
    put_pictures(tmp_path, "COCO_val2014_000000000009.jpg")
    good = {"image_id": "9", "question_id": "1", "Question": "TV?", "Answer": "TV"}
    items = [good, {**good, "Question": "?"}, {**good, "question_id": "2", "image_id": "-9"}, {}]
    path = put(tmp_path / "x.json", {"val": items})
    assert told(read_fmiqa(path)) == [
        ("x.json val item 2", "a question of the id 1 stands before it"),
        ("x.json val item 3", "image_id '-9' is no number of up to 12 digits"),
        ("x.json val item 4", "question_id is no text or number"),
        ("COCO_val2014_000000000009", "x.json val item 1", [("zh", "TV?", ("TV",))]),
    ]


@pytest.mark.parametrize(
    "read, content, reason",
    [
        (read_vqa, {}, "it has no list 'questions'"),
        (read_gqa, [], "it is no object of questions by id"),
        (read_fmiqa, {"a": []}, "it has no list 'train', 'val' or 'test'"),
        (read_fmiqa, {"val": {}}, "it has no list 'val'"),
    ],
)
def test_a_file_of_another_form_is_told(read, content, reason, tmp_path):
    assert told(read(put(tmp_path / "x.json", content))) == [("x.json", reason)]


def test_questions_keep_what_their_source_calls_them(tmp_path):
    for read, write in ((read_gqa, gqa), (read_fmiqa, fmiqa)):
        found = pairs_of(read(write(tmp_path / write.__name__)))
        assert all(question.id for pair in found for question in pair.questions)
