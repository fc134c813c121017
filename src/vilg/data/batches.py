"""What a step is trained on: a pure function of (seed, step) and the rows of the store.

Every random choice about a pair is made here: whether its prompt is dropped, which language, which of
its texts, which question and answer. None depends on who else is in the batch or on which process it is made, and none walks
over pairs one by one.

Shape letters: B pairs, R texts, L languages, P all texts of the pairs, M tokens of the longest text.
"""

import numpy as np
from numpy.typing import NDArray

from vilg.data.store import Kind, Store, Texts
from vilg.randomness import uniforms
from vilg.text import LANGUAGES, TextTokenizer

# Lengths that texts are padded to: few, so that a compiled step has few shapes, and near each other where
# texts are short, so that little is padded.
LENGTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

NO_TEXT = -1


def choose_prompts(
    store: Store,
    rows_B: NDArray[np.int64],
    seed: int,
    step: int,
    *,
    caption_drop: float,
    prompt_share: float,
) -> NDArray[np.int64]:
    """Return which text each pair is drawn from; `NO_TEXT` is the null prompt.

    A language is chosen evenly among those that the pair has captions in, then a caption in it, or one of
    its further prompts.

    Args:
        caption_drop: share of pairs that get the null prompt.
        prompt_share: share of pairs drawn from a further prompt, where they have any in the language.
    """
    texts = store.texts_of(rows_B)
    has_BL = np.zeros((len(rows_B), len(LANGUAGES)), bool)
    is_caption_P = texts.kind_P == Kind.CAPTION
    has_BL[texts.owner_P[is_caption_P], texts.lang_P[is_caption_P]] = True
    lang_B = _one_of(has_BL, uniforms(seed, "prompt language", step, *_grid(rows_B, has_BL)))
    is_prompt_P = (texts.kind_P == Kind.PROMPT) & (texts.lang_P == lang_B[texts.owner_P])
    has_prompt_B = np.zeros(len(rows_B), bool)
    has_prompt_B[texts.owner_P[is_prompt_P]] = True
    by_prompt_B = has_prompt_B & (uniforms(seed, "prompt", step, rows_B) < prompt_share)
    of_lang_P = is_caption_P & (texts.lang_P == lang_B[texts.owner_P])
    fits_P = np.where(by_prompt_B[texts.owner_P], is_prompt_P, of_lang_P)
    chosen_B = _choose(texts, len(rows_B), fits_P, "which prompt", seed, step)
    dropped_B = uniforms(seed, "drop", step, rows_B) < caption_drop
    return np.where(dropped_B, NO_TEXT, chosen_B)


def choose_captions(
    store: Store, rows_B: NDArray[np.int64], seed: int, step: int, num_texts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which captions each picture is described by and their languages, picture by picture, text_R, lang_R.

    Several are in different languages as far as the pair has them; where it has none left, `NO_TEXT`.
    """
    texts = store.texts_of(rows_B)
    is_caption_P = texts.kind_P == Kind.CAPTION
    has_BL = np.zeros((len(rows_B), len(LANGUAGES)), bool)
    has_BL[texts.owner_P[is_caption_P], texts.lang_P[is_caption_P]] = True
    order_BL = uniforms(seed, "caption language", step, *_grid(rows_B, has_BL))
    text_RL, lang_RL = [], []
    for _ in range(num_texts):
        lang_B = _one_of(has_BL, order_BL)
        fits_P = is_caption_P & (texts.lang_P == lang_B[texts.owner_P])
        text_RL.append(_choose(texts, len(rows_B), fits_P, "which caption", seed, step))
        lang_RL.append(np.maximum(lang_B, 0))
        has_BL[np.arange(len(rows_B))[lang_B >= 0], lang_B[lang_B >= 0]] = False
    return np.stack(text_RL, 1).reshape(-1), np.stack(lang_RL, 1).reshape(-1)


def choose_questions(
    store: Store, rows_B: NDArray[np.int64], seed: int, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which question each pair is asked, its answer, and their language: question_B, answer_B, lang_B.

    A language is chosen evenly among those that the pair has answered questions in, then a question in it,
    then an answer: one that three of ten people gave comes three times of ten. A pair without any has
    `NO_TEXT` for both.
    """
    texts = store.texts_of(rows_B)
    is_answer_P = texts.kind_P == Kind.ANSWER
    # An answer follows its question.
    place_P = np.arange(len(texts.kind_P))
    its_P = np.maximum.accumulate(np.where(texts.kind_P == Kind.QUESTION, place_P, 0))
    is_answered_P = np.zeros(len(place_P), bool)
    is_answered_P[its_P[is_answer_P]] = True
    has_BL = np.zeros((len(rows_B), len(LANGUAGES)), bool)
    has_BL[texts.owner_P[is_answered_P], texts.lang_P[is_answered_P]] = True
    lang_B = _one_of(has_BL, uniforms(seed, "question language", step, *_grid(rows_B, has_BL)))
    fits_P = is_answered_P & (texts.lang_P == lang_B[texts.owner_P])
    question_B = _choose(texts, len(rows_B), fits_P, "which question", seed, step)
    fits_P = is_answer_P & (texts.text_P[its_P] == question_B[texts.owner_P])
    answer_B = _choose(texts, len(rows_B), fits_P, "which answer", seed, step)
    return question_B, answer_B, np.maximum(lang_B, 0)


def _grid(rows_B: NDArray[np.int64], has_BL: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    return rows_B[:, None], np.arange(has_BL.shape[1])[None, :]


def _one_of(has_BL: NDArray[np.bool_], order_BL: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the language that comes first among those a pair has; -1 where it has none."""
    ordered_BL = np.where(has_BL, order_BL, 2.0)
    return np.where(has_BL.any(1), ordered_BL.argmin(1), -1)


def _choose(
    texts: Texts, num: int, fits_P: NDArray[np.bool_], purpose: str, seed: int, step: int
) -> NDArray[np.int64]:
    """Return one of the texts that fit of each of `num` pairs, evenly; `NO_TEXT` where none does."""
    order_P = uniforms(seed, purpose, step, texts.text_P)
    chosen_B = np.full(num, NO_TEXT)
    # The last write to a place counts, so the texts come from the last in order to the first.
    descending_P = np.argsort(-order_P, kind="stable")
    descending_P = descending_P[fits_P[descending_P]]
    chosen_B[texts.owner_P[descending_P]] = texts.text_P[descending_P]
    return chosen_B


def padded(store: Store, text_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return texts in tokens, padded on the right to one of `LENGTHS`: ids_RM, valid_RM.

    `NO_TEXT` has none.
    """
    is_text_R = text_R != NO_TEXT
    begins, ends = store.spans_of(text_R[is_text_R])
    length_R = np.zeros(len(text_R), np.int64)
    length_R[is_text_R] = ends - begins
    longest = int(length_R.max(initial=0))
    room = store.info.max_text - 1  # of a text without its language token
    M = min(next((length for length in LENGTHS if length >= longest), room), room)
    place_1M = np.arange(M)[None, :]
    valid_RM = place_1M < length_R[:, None]
    ids_RM = np.full(valid_RM.shape, TextTokenizer.pad_id, np.int64)
    ids_RM[valid_RM] = store.tokens_in(begins, ends)
    return ids_RM, valid_RM


def targets(
    store: Store, text_R: NDArray[np.int64], language_ids_R: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return inputs_RM (language token, text), labels_RM (text, end token) and where they count, valid_RM."""
    ids_RM, inside_RM = padded(store, text_R)
    inputs_RM = np.concatenate([language_ids_R[:, None], ids_RM], 1)
    labels_RM = np.pad(ids_RM, ((0, 0), (0, 1)), constant_values=TextTokenizer.pad_id)
    end_R = inside_RM.sum(1)
    labels_RM[np.arange(len(text_R)), end_R] = TextTokenizer.eos_id
    valid_RM = np.arange(inputs_RM.shape[1])[None, :] <= end_R[:, None]
    return inputs_RM, labels_RM, valid_RM & (text_R != NO_TEXT)[:, None]


def num_targets(store: Store, text_R: NDArray[np.int64]) -> int:
    """Return how many labels of `targets` count: every text's tokens, and its end."""
    begins, ends = store.spans_of(text_R[text_R != NO_TEXT])
    return int((ends - begins).sum()) + len(begins)


def disturbed(
    store: Store,
    rows_B: NDArray[np.int64],
    own_BN: NDArray[np.int64],
    seed: int,
    step: int,
    share: float,
) -> NDArray[np.int64]:
    """Replace cells of a share of pairs by those of another picture, each pair by a share drawn from 0 to 1."""
    others_B = np.floor(uniforms(seed, "disturbing picture", step, rows_B) * len(store)).astype(int)
    share_B = uniforms(seed, "disturbed share", step, rows_B)
    share_B[uniforms(seed, "disturbed", step, rows_B) >= share] = 0
    cell_1N = np.arange(own_BN.shape[1])[None, :]
    cells_BN = uniforms(seed, "disturbed cell", step, rows_B[:, None], cell_1N)
    return np.where(cells_BN < share_B[:, None], store.image_ids(others_B), own_BN)
