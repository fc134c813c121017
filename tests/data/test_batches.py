"""What a step is trained on, against a reference that looks at one pair after another."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vilg.data.batches import (
    LENGTHS,
    NO_TEXT,
    choose_captions,
    choose_prompts,
    choose_questions,
    disturbed,
    num_targets,
    padded,
    targets,
)
from vilg.data.order import batch_ids
from vilg.data.store import Kind, Rows, Store, StoreInfo, Writer
from vilg.parallel import Share
from vilg.randomness import uniforms
from vilg.text import LANGUAGES, TextTokenizer

SEED = 5
MAX_TEXT = 300
ZH, EN = map(LANGUAGES.index, ("zh", "en"))
LANGUAGE_IDS = np.array([4, 5])
Row = list[tuple[int, Kind, list[int]]]


def text(length: int) -> list[int]:
    return [262 + length] * length


# What a pair may have; captions, prompts and questions stand in any order.
ONLY_QUESTIONS: Row = [(EN, Kind.QUESTION, text(3)), (EN, Kind.ANSWER, text(1))]
SHAPES: dict[str, Row] = {
    "one zh": [(ZH, Kind.CAPTION, text(4))],
    "one en": [(EN, Kind.CAPTION, text(5))],
    "one of both": [(ZH, Kind.CAPTION, text(1)), (EN, Kind.CAPTION, text(2))],
    "five of both": [(lang, Kind.CAPTION, text(10 + i)) for i in range(5) for lang in (EN, ZH)],
    "five en, one zh": [(ZH, Kind.CAPTION, text(7)), *[(EN, Kind.CAPTION, text(20 + i)) for i in range(5)]],
    "prompts of both": [
        (ZH, Kind.PROMPT, text(30)),
        (EN, Kind.CAPTION, text(8)),
        (EN, Kind.PROMPT, text(31)),
        (ZH, Kind.CAPTION, text(9)),
        (EN, Kind.PROMPT, text(32)),
    ],
    "prompts of the other language": [(EN, Kind.CAPTION, text(6)), (ZH, Kind.PROMPT, text(33))],
    "prompts only": [(ZH, Kind.PROMPT, text(34))],
    "questions only": ONLY_QUESTIONS,
    "questions too": [*ONLY_QUESTIONS, (ZH, Kind.CAPTION, text(3)), *ONLY_QUESTIONS],
    "an answerless one before": [(EN, Kind.QUESTION, text(2)), *ONLY_QUESTIONS],
    "questions in both": [
        (ZH, Kind.QUESTION, text(40)),
        *[(ZH, Kind.ANSWER, text(41 + i)) for i in range(3)],
        *ONLY_QUESTIONS,
        (ZH, Kind.QUESTION, text(2)),
        (EN, Kind.QUESTION, text(50)),
        (EN, Kind.ANSWER, text(51)),
    ],
    "nothing": [],
    "the longest": [(EN, Kind.CAPTION, text(299))],
}  # fmt: skip


def write(folder: Path, rows: list[Row], max_text: int = MAX_TEXT) -> Store:
    with Writer(folder) as writer:
        image_ids_SN = np.arange(4 * len(rows)).reshape(-1, 4).astype(np.uint16)
        writer.append(Rows([str(i) for i in range(len(rows))], image_ids_SN, rows))
        writer.close(
            partial(
                StoreInfo,
                grid=(2, 2),
                image_tokenizer="i",
                text_tokenizer="t",
                max_text=max_text,
                rejects=0,
            )
        )
    return Store(folder)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Five of each kind of pair, mixed, so that no place in the store says which it is."""
    rows = [row for row in SHAPES.values() for _ in range(5)]
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def store(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write(tmp_path_factory.mktemp("store"), rows)


def drawn(purpose: str, step: int, *counters: int) -> float:
    return float(uniforms(SEED, purpose, step, *counters))


def first_text(rows: list[Row], row: int) -> int:
    return sum(map(len, rows[:row]))


def one_of(purpose: str, step: int, texts: list[int]) -> int:
    """Return the text that draws the smallest number."""
    return min(texts, key=lambda text: drawn(purpose, step, text), default=NO_TEXT)


def expected_prompt(
    rows: list[Row], row: int, step: int, caption_drop: float, prompt_share: float
) -> int:
    """Say what `choose_prompts` says, one pair at a time."""
    texts = [(first_text(rows, row) + i, *text[:2]) for i, text in enumerate(rows[row])]
    if drawn("drop", step, row) < caption_drop:
        return NO_TEXT
    languages = {lang for _, lang, kind in texts if kind == Kind.CAPTION}
    if not languages:
        return NO_TEXT
    lang = min(languages, key=lambda lang: drawn("prompt language", step, row, lang))
    captions = [text for text, its, kind in texts if its == lang and kind == Kind.CAPTION]
    prompts = [text for text, its, kind in texts if its == lang and kind == Kind.PROMPT]
    is_prompt = prompts and drawn("prompt", step, row) < prompt_share
    return one_of("which prompt", step, prompts if is_prompt else captions)


def expected_captions(
    rows: list[Row], row: int, step: int, num_texts: int
) -> list[tuple[int, int]]:
    """Say what `choose_captions` says, one pair at a time."""
    texts = [(first_text(rows, row) + i, *text[:2]) for i, text in enumerate(rows[row])]
    languages = {lang for _, lang, kind in texts if kind == Kind.CAPTION}
    found = []
    for lang in sorted(languages, key=lambda lang: drawn("caption language", step, row, lang)):
        captions = [text for text, its, kind in texts if its == lang and kind == Kind.CAPTION]
        found.append((one_of("which caption", step, captions), lang))
    return [*found, *[(NO_TEXT, 0)] * num_texts][:num_texts]


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.1, 0.15), (0.5, 0.5), (0.0, 1.0), (1.0, 0.5)])
def test_prompts_are_those_of_the_reference(
    store: Store, rows: list[Row], shares: tuple[float, float]
) -> None:
    drop, prompt = shares
    for step in (0, 1, 2, 10**9):
        found = choose_prompts(
            store, np.arange(len(rows)), SEED, step, caption_drop=drop, prompt_share=prompt
        )
        assert found.tolist() == [
            expected_prompt(rows, row, step, drop, prompt) for row in range(len(rows))
        ]


@pytest.mark.parametrize("num_texts", [1, 2])
def test_captions_are_those_of_the_reference(store: Store, rows: list[Row], num_texts: int) -> None:
    for step in (0, 1, 2, 10**9):
        text_R, lang_R = choose_captions(store, np.arange(len(rows)), SEED, step, num_texts)
        assert list(zip(text_R.tolist(), lang_R.tolist(), strict=True)) == [
            caption
            for row in range(len(rows))
            for caption in expected_captions(rows, row, step, num_texts)
        ]


def expected_question(rows: list[Row], row: int, step: int) -> tuple[int, int, int]:
    """Say what `choose_questions` says, one pair at a time."""
    answers: dict[int, list[int]] = {}
    langs: dict[int, int] = {}
    for i, (lang, kind, _) in enumerate(rows[row], start=first_text(rows, row)):
        if kind == Kind.QUESTION:
            question = i
        if kind == Kind.ANSWER:
            answers.setdefault(question, []).append(i)
            langs[question] = lang
    if not answers:
        return NO_TEXT, NO_TEXT, 0
    lang = min(langs.values(), key=lambda lang: drawn("question language", step, row, lang))
    fitting = [question for question in answers if langs[question] == lang]
    question = one_of("which question", step, fitting)
    return question, one_of("which answer", step, answers[question]), lang


def test_questions_are_those_of_the_reference(store: Store, rows: list[Row]) -> None:
    for step in (0, 1, 2, 10**9):
        found = choose_questions(store, np.arange(len(rows)), SEED, step)
        assert [*zip(*(each.tolist() for each in found), strict=True)] == [
            expected_question(rows, row, step) for row in range(len(rows))
        ]


def test_an_answer_comes_as_often_as_people_gave_it(tmp_path: Path) -> None:
    row: Row = [
        (EN, Kind.QUESTION, text(2)),
        *[(EN, Kind.ANSWER, text(1 + (i > 2))) for i in range(10)],
    ]
    store, steps = write(tmp_path, [row]), 2000
    found = [int(choose_questions(store, np.array([0]), SEED, step)[1][0]) for step in range(steps)]
    few = np.mean([answer <= 3 for answer in found])
    assert set(found) == set(range(1, 11)) and abs(few - 0.3) < 4 * (0.21 / steps) ** 0.5


def test_shares_over_many_steps(tmp_path: Path) -> None:
    """Languages evenly, whatever the number of captions; captions evenly; prompts and drops by their shares."""
    names = ["five en, one zh", "prompts of both", "one zh", "prompts of the other language"]
    rows = [SHAPES[name] for name in names]
    store, steps = write(tmp_path, rows), 2000
    found = np.stack(
        [
            choose_prompts(store, np.arange(4), SEED, step, caption_drop=0.1, prompt_share=0.25)
            for step in range(steps)
        ]
    )
    described = np.stack(
        [choose_captions(store, np.arange(4), SEED, step, 1)[0] for step in range(steps)]
    )

    def check(texts: NDArray[np.int64], shares: dict[int, float]) -> None:
        assert set(np.unique(texts)) == set(shares)
        for text, share in shares.items():
            deviation = (share * (1 - share) / steps) ** 0.5
            assert abs((texts == text).mean() - share) < 4 * deviation, text

    many = {0: 0.5, **dict.fromkeys(range(1, 6), 0.1)}
    check(described[:, 0], many)
    check(found[:, 0], {NO_TEXT: 0.1, **{text: 0.9 * share for text, share in many.items()}})
    # zh: text 9, prompt 6; en: text 7, prompts 8 and 10.
    check(described[:, 1], {9: 0.5, 7: 0.5})
    of_prompts = {6: 0.125, 9: 0.375, 7: 0.375, 8: 0.0625, 10: 0.0625}
    check(found[:, 1], {NO_TEXT: 0.1, **{text: 0.9 * s for text, s in of_prompts.items()}})
    check(found[:, 2], {NO_TEXT: 0.1, 11: 0.9})
    check(found[:, 3], {NO_TEXT: 0.1, 12: 0.9})
    assert (described[:, 2:] == [11, 12]).all()
    # One pair's choice says nothing of another's.
    agree = (found[:, 0] == NO_TEXT) == (found[:, 1] == NO_TEXT)
    assert abs(agree.mean() - 0.82) < 4 * (0.82 * 0.18 / steps) ** 0.5


def all_choices(
    store: Store, rows_B: NDArray[np.int64], step: int
) -> list[tuple[NDArray[np.int64], ...]]:
    """Return all that a step asks for, row by row."""
    prompts = choose_prompts(store, rows_B, SEED, step, caption_drop=0.2, prompt_share=0.5)
    texts, langs = choose_captions(store, rows_B, SEED, step, 2)
    moved = disturbed(store, rows_B, store.image_ids(rows_B), SEED, step, 0.5)
    asked = choose_questions(store, rows_B, SEED, step)
    return [*zip(prompts, texts.reshape(-1, 2), langs.reshape(-1, 2), moved, *asked, strict=True)]


def assert_equal(
    found: list[tuple[NDArray[np.int64], ...]], expected: list[tuple[NDArray[np.int64], ...]]
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_pair_is_told_nothing_by_its_batch(store: Store, rows: list[Row]) -> None:
    together = all_choices(store, np.arange(len(rows)), 7)
    for row in range(len(rows)):
        assert_equal(all_choices(store, np.array([row]), 7), [together[row]])
    order = np.random.default_rng(0).integers(0, len(rows), 100)  # some several times
    assert_equal(all_choices(store, order, 7), [together[row] for row in order])


@pytest.mark.parametrize("num_shares", [1, 2, 4])
def test_a_pair_is_told_nothing_by_its_share(
    store: Store, rows: list[Row], num_shares: int
) -> None:
    """Batches of 8, of which several straddle two epochs."""
    for step in range(12):
        batch = batch_ids(SEED, step, 8, len(rows))
        expected = all_choices(store, batch, step)
        found = {}
        for index in range(num_shares):
            own = Share(index, num_shares).part(batch)
            for place, choice in enumerate(all_choices(store, own, step)):
                found[index + place * num_shares] = choice
        assert_equal([found[place] for place in range(8)], expected)


def test_texts_are_padded_to_few_lengths(store: Store, rows: list[Row]) -> None:
    flat = [tokens for row in rows for _, _, tokens in row]
    rng = random.Random(0)
    seen = set()
    for _ in range(100):
        texts = rng.choices([NO_TEXT, *range(len(flat))], k=rng.randrange(1, 4))
        ids_RM, valid_RM = padded(store, np.array(texts))
        M = ids_RM.shape[1]
        seen.add(M)
        tokens = [[] if text == NO_TEXT else flat[text] for text in texts]
        longest = max(map(len, tokens))
        assert min([length for length in (*LENGTHS, MAX_TEXT - 1) if length >= longest]) == M
        for row, ids in enumerate(tokens):
            assert valid_RM[row].tolist() == [True] * len(ids) + [False] * (M - len(ids))
            assert ids_RM[row].tolist() == ids + [TextTokenizer.pad_id] * (M - len(ids))
    assert {4, 8, 32, MAX_TEXT - 1} <= seen <= {*LENGTHS, MAX_TEXT - 1}


@pytest.mark.parametrize(("max_text", "expected"), [(2, 1), (7, 6), (9, 8), (14, 12)])
def test_no_text_is_padded_beyond_what_the_model_reads(
    tmp_path: Path, max_text: int, expected: int
) -> None:
    longest = min(max_text - 1, 10)
    store = write(tmp_path, [[(ZH, Kind.CAPTION, text(longest))]], max_text)
    assert padded(store, np.array([0]))[0].shape == (1, expected)
    inputs_RM, labels_RM, valid_RM = targets(store, np.array([0]), LANGUAGE_IDS[[ZH]])
    assert inputs_RM.shape == labels_RM.shape == (1, expected + 1)
    assert valid_RM.sum() == longest + 1


def test_targets_are_written_after_their_language(store: Store, rows: list[Row]) -> None:
    flat = [tokens for row in rows for _, _, tokens in row]
    texts = [3, NO_TEXT, 0, 12, NO_TEXT, 30]
    langs = np.array([0, 0, 1, 0, 1, 1])
    found = targets(store, np.array(texts), LANGUAGE_IDS[langs])
    for text, lang, inputs, labels, valid in zip(texts, langs, *found, strict=True):
        ids = [] if text == NO_TEXT else flat[text]
        assert inputs[0] == LANGUAGE_IDS[lang]
        if text == NO_TEXT:
            assert not valid.any()
            continue
        assert valid.tolist() == [i <= len(ids) for i in range(len(valid))]
        assert inputs[valid].tolist() == [LANGUAGE_IDS[lang], *ids]
        assert labels[valid].tolist() == [*ids, TextTokenizer.eos_id]


def test_pairs_without_captions_count_nowhere(tmp_path: Path) -> None:
    """Neither where a store has other texts, nor where it has none at all."""
    for name in ("questions only", "prompts only", "nothing"):
        store = write(tmp_path / name, [SHAPES[name]] * 3)
        rows_B = np.arange(3)
        for step in range(20):
            texts = choose_prompts(store, rows_B, SEED, step, caption_drop=0.1, prompt_share=1.0)
            assert (texts == NO_TEXT).all() and not padded(store, texts)[1].any()
            texts, langs = choose_captions(store, rows_B, SEED, step, 2)
            assert (texts == NO_TEXT).all() and len(texts) == 6
            assert not targets(store, texts, LANGUAGE_IDS[langs])[2].any()


def test_cells_are_those_of_one_other_picture(store: Store) -> None:
    rows_B = np.arange(len(store))
    own_BN = store.image_ids(rows_B)
    num_touched, shares = 0, []
    for step in range(40):
        found_BN = disturbed(store, rows_B, own_BN, SEED, step, 0.5)
        for row, (own, found) in enumerate(zip(own_BN.tolist(), found_BN.tolist(), strict=True)):
            other = int(drawn("disturbing picture", step, row) * len(store))
            share = drawn("disturbed share", step, row)
            is_touched = drawn("disturbed", step, row) < 0.5
            assert found == [
                4 * other + cell
                if is_touched and drawn("disturbed cell", step, row, cell) < share
                else own[cell]
                for cell in range(4)
            ]
            num_touched += is_touched
            shares.append(share)
    assert abs(num_touched / len(shares) - 0.5) < 4 * (0.25 / len(shares)) ** 0.5
    assert abs(np.mean(shares) - 0.5) < 4 * (1 / 12 / len(shares)) ** 0.5
    assert np.array_equal(disturbed(store, rows_B, own_BN, SEED, 0, 0.0), own_BN)


def test_nothing_is_asked_of_no_rows(store: Store) -> None:
    """A share of a batch may leave a process none."""
    none = np.empty(0, np.int64)
    texts = choose_prompts(store, none, SEED, 0, caption_drop=0.1, prompt_share=0.1)
    assert len(texts) == 0 and padded(store, texts)[0].shape[0] == 0
    texts, langs = choose_captions(store, none, SEED, 0, 2)
    assert targets(store, texts, LANGUAGE_IDS[langs])[0].shape[0] == 0
    assert [len(each) for each in choose_questions(store, none, SEED, 0)] == [0, 0, 0]
    assert disturbed(store, none, store.image_ids(none), SEED, 0, 0.5).shape == (0, 4)


def test_targets_are_counted_without_being_made(store: Store, rows: list[Row]) -> None:
    num_texts = sum(map(len, rows))
    for texts in (np.array([NO_TEXT]), np.arange(num_texts), np.array([3, NO_TEXT, 3, 0])):
        _, _, valid_RM = targets(store, texts, np.zeros(len(texts), np.int64))
        assert num_targets(store, texts) == valid_RM.sum()
