"""`vilg answer`: one question, and a file of them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Result, Run, full_disk
from vilg.api import Vilg
from vilg.sampling.batches import LARGEST_BATCH

QUESTION = "what is it?"


def test_answers_are_one_a_line(run: Run, picture: Path, toy_folder: Path) -> None:
    result = run("answer", picture, QUESTION, "-n", "3", "--model", toy_folder)
    answers = Vilg.from_pretrained(toy_folder).answer(picture, QUESTION, n=3)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [*answers] and len(answers) == 3


def test_an_answer_in_another_language_as_json(run: Run, picture: Path, toy_folder: Path) -> None:
    result = run("answer", picture, QUESTION, "--lang", "zh", "--json", "--model", toy_folder)
    (answer,) = Vilg.from_pretrained(toy_folder).answer(picture, QUESTION, "zh")
    found = json.loads(result.out)
    assert found.pop("log_probs") == pytest.approx([answer.log_prob], abs=1e-4)
    assert found == {"image": "picture.png", "question": QUESTION, "answers": [answer]}


def test_the_likeliest_choice(run: Run, picture: Path, toy_folder: Path) -> None:
    choices = ["red apple", "car", "green heart"]
    result = run("answer", picture, QUESTION, "--model", toy_folder, "--choices", *choices)
    expected = Vilg.from_pretrained(toy_folder).answer(picture, QUESTION, choices=choices)
    assert result.out.splitlines() == [*expected] and expected[0] in choices


def write_vqa(folder: Path, num: int = 40) -> Path:
    """Write questions as VQAv2 has them, two a picture, the second of the last picture too long."""
    folder.mkdir()
    for i in range(num // 2):
        Image.new("RGB", (40, 30), (13 * i, 255 - 12 * i, 99)).save(
            folder / f"COCO_val2014_{i:012}.jpg"
        )
    questions = [
        {"question_id": 1000 + i, "image_id": i // 2, "question": f"what is it, number {i}?"}
        for i in range(num)
    ]
    questions[-1]["question"] = "red " * 40
    path = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    path.write_text(json.dumps({"data_subtype": "val2014", "questions": questions}))
    answers = [
        {"question_id": 1000 + i, "answers": [{"answer": "yes" if i % 4 else "no"}] * 10}
        for i in range(num)
    ]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": answers}))
    return path


def answer_file(run: Run, path: Path, toy_folder: Path, *more: str) -> Result:
    return run("answer", "--questions", path, "-o", "out/a.json", "--model", toy_folder, *more)


def test_a_file_of_questions_is_answered_as_each_alone(
    run: Run, tmp_path: Path, toy_folder: Path
) -> None:
    path = write_vqa(tmp_path / "vqa")
    result = answer_file(run, path, toy_folder)
    assert result.status == 0 and result.out == "out/a.json\n"
    recognised, *_, left_out, told = result.err.splitlines()
    assert "VQAv2" in recognised
    assert left_out.startswith("without an answer: 1, the first is") and "tokens" in left_out
    assert told.startswith("of 39 questions exactly right: ") and "VQA accuracy" in told
    assert "'yes' to all would be 74.4%, 74.4%" in told
    results = json.loads(Path("out/a.json").read_text())
    assert [row["question_id"] for row in results] == list(range(1000, 1039))
    model = Vilg.from_pretrained(toy_folder)
    for i in (0, 1, 38):
        picture = path.parent / f"COCO_val2014_{i // 2:012}.jpg"
        (answer,) = model.answer(picture, f"what is it, number {i}?")
        assert results[i]["answer"] == answer
    assert [file.name for file in Path("out").iterdir()] == ["a.json"]


def test_a_run_that_was_broken_off_goes_on_with_the_same_bytes(
    run: Run, tmp_path: Path, toy_folder: Path
) -> None:
    """The disk was full in the second batch; what stands before is kept, half a line is not."""
    path = write_vqa(tmp_path / "vqa")
    answer_file(run, path, toy_folder)
    out, part = Path("out/a.json"), Path("out/a.json.part")
    whole = json.loads(out.read_text(encoding="utf-8"))
    lines = [json.dumps({"answer": row["answer"]}) + "\n" for row in whole]
    out.unlink()
    with full_disk(after=sum(map(len, lines[:LARGEST_BATCH])) + 300):
        broken = answer_file(run, path, toy_folder)
    assert (broken.status, broken.out) == (2, "") and "out/a.json.part" in broken.err
    head, *written = part.read_text().splitlines(keepends=True)
    assert not out.exists() and written[:LARGEST_BATCH] == lines[:LARGEST_BATCH]
    other = answer_file(run, path, toy_folder, "--lang", "zh")
    assert other.status == 2 and "answers of another model, source or settings" in other.err
    part.write_text(head + json.dumps({"answer": "as it was"}) + "\n" + "".join(written[1:]))
    assert answer_file(run, path, toy_folder).status == 0
    whole[0]["answer"] = "as it was"  # so it was not answered anew
    assert json.loads(out.read_text(encoding="utf-8")) == whole and not part.exists()


def test_pairs_of_any_source_are_asked_and_named_where_they_have_no_names(
    run: Run, tmp_path: Path, toy_folder: Path
) -> None:
    Image.new("RGB", (32, 32), "red").save("a.png")
    Path("b.png").write_text("no picture")
    lines = [
        {"image": "a.png", "questions": [{"question": "what?"}, {"question": "这是什么？", "question_id": "x7"}]},
        {"image": "b.png", "question": "what?", "answer": "a square"},
        {"image": "a.png", "id": "c", "caption": "red"},
    ]  # fmt: skip
    Path("p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = answer_file(run, Path("p.jsonl"), toy_folder, "--json")
    assert result.status == 0
    found = json.loads(result.out)
    assert found["results"] == "out/a.json" and found["scores"] is None
    (left_out,) = found["left_out"]
    assert left_out.startswith("p.jsonl line 2: ")
    results = json.loads(Path("out/a.json").read_text(encoding="utf-8"))
    assert [row["question_id"] for row in results] == ["a/0", "x7"]
