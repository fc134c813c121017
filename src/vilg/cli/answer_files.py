"""The work of `vilg answer --questions`: all questions of a source, in batches, into a file of results.

    OUT.json          [{"question_id": ..., "answer": ...}, ...], as VQAv2's server takes it
    OUT.json.part     a line for what the answers are made from, then one a question; it is there until all are

A kill costs one batch. Batches begin at the same questions whenever a run goes on, so that the results have the
same bytes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vilg.api import Vilg
from vilg.cli.output import OutputError, write
from vilg.data.pairs import DataError, Pair, Question, Reject
from vilg.data.pictures import try_picture
from vilg.data.sources import Source
from vilg.device import HOST
from vilg.errors import VilgError
from vilg.evaluation.vqa import Scores, scores
from vilg.images import to_pixels
from vilg.progress import Progress
from vilg.sampling.batches import LARGEST_BATCH, slices
from vilg.text import TextError


@dataclass(frozen=True)
class Asked:
    """A question of a source, and what results call it: as the source does, else by its pair and its number there."""

    id: str
    pair: Pair
    question: Question


def answer_all(
    model: Vilg, source: Source, out: Path, lang: str | None
) -> tuple[Scores | None, list[str]]:
    """Write the answers to all questions of a source.

    Returns:
        how good they are, where the source has answers; and why others have no answer: an unreadable picture, a
        question too long.

    Raises:
        DataError: the source has no questions.
        OutputError: half-done answers of something else, or a file that cannot be written.
        SettingError: the model was not trained to answer in a language that is asked in.
    """
    asked, left_out = _questions(source)
    if not asked:
        raise DataError(f"{source.given} has no questions: name another source")
    for one in asked:  # before anything is written
        model.text_tokenizer.language_id(model.answer_language(one.question.text, lang))
    made_from = {
        "source": source.identity.sha256,
        "model": model.weights_hash,
        "lang": lang,
        "precision": str(model.precision),
        "device": None if model.device == HOST else model.device.type,
    }
    rows = _answer_each(made_from, asked, out, lambda some: _answered(model, some, lang))
    told = [(one, row["answer"]) for one, row in zip(asked, rows, strict=True) if "answer" in row]
    results = [{"question_id": _number(one.id), "answer": answer} for one, answer in told]
    write(out, (json.dumps(results, ensure_ascii=False) + "\n").encode())
    _unfinished(out).unlink(missing_ok=True)
    left_out += [
        f"{one.pair.place}: {row['left_out']}"
        for one, row in zip(asked, rows, strict=True)
        if "left_out" in row
    ]
    return scores(
        [answer for _, answer in told], [one.question.answers for one, _ in told]
    ), left_out


def _questions(source: Source) -> tuple[list[Asked], list[str]]:
    asked, left_out = [], []
    for item in source:
        if isinstance(item, Reject):
            left_out.append(f"{item.place}: {item.reason}")
            continue
        asked += [
            Asked(question.id or f"{item.id}/{i}", item, question)
            for i, question in enumerate(item.questions)
        ]
    return asked, left_out


def _number(id: str) -> int | str:
    """Return an id as VQAv2 has it, a number, where it is one."""
    return int(id) if id.isascii() and id.isdigit() and str(int(id)) == id else id


def _unfinished(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _answer_each(
    made_from: dict[str, Any],
    asked: Sequence[Asked],
    out: Path,
    answer: Callable[[Sequence[Asked]], list[dict[str, str]]],
) -> list[dict[str, str]]:
    """Answer batch by batch behind what an earlier run has left; return a row for each question."""
    path, head = _unfinished(out), json.dumps(made_from) + "\n"
    rows = _rows_of(path, head)
    rows = rows[: len(rows) // LARGEST_BATCH * LARGEST_BATCH]
    write(path, (head + "".join(map(_line, rows))).encode())
    try:
        with path.open("a", encoding="utf-8") as file, Progress("questions") as progress:
            for part in slices(len(asked) - len(rows), LARGEST_BATCH, len(rows)):
                rows += answer(asked[part])
                file.writelines(map(_line, rows[part]))
                file.flush()
                progress(part.stop, len(asked))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    return rows


def _rows_of(path: Path, head: str) -> list[dict[str, str]]:
    """Return the rows that are there whole."""
    if not path.exists():
        return []
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines(
        keepends=True
    ) or [""]
    if first != head:
        raise OutputError(
            f"{path} holds answers of another model, source or settings: remove it, or write elsewhere"
        )
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(row: dict[str, str]) -> str:
    return json.dumps(row) + "\n"


def _answered(model: Vilg, asked: Sequence[Asked], lang: str | None) -> list[dict[str, str]]:
    """Answer some questions; each picture is read once."""
    rows: list[dict[str, str]] = [{} for _ in asked]
    pictures: dict[str, Any] = {}
    for row, one in zip(rows, asked, strict=True):
        where = one.pair.place
        if where not in pictures:
            pictures[where] = (
                DataError("it has no picture")
                if one.pair.picture is None
                else try_picture(one.pair, model.image_size)
            )
        fault = pictures[where]
        try:
            model.encode_text(one.question.text)
        except TextError as error:
            fault = error
        if isinstance(fault, VilgError):
            row["left_out"] = str(fault)
    good = [i for i, row in enumerate(rows) if not row]
    if not good:
        return rows
    places = list(dict.fromkeys(asked[i].pair.place for i in good))
    arrays_BYX3 = np.stack([pictures[place] for place in places])
    ids_BHW = model.image_tokenizer.encode(to_pixels(arrays_BYX3, model.device))
    picture_Q = torch.tensor([places.index(asked[i].pair.place) for i in good], device=model.device)
    found = model.answer_each(
        ids_BHW.flatten(1)[picture_Q], [asked[i].question.text for i in good], lang
    )
    for i, answer in zip(good, found, strict=True):
        rows[i]["answer"] = str(answer)
    return rows
