"""Answers to questions about pictures: written freely, or chosen among those that are given.

The likelihood of an answer is that of its whole text, the sum of log P(t_k | z, q, t_<k) with the end token: how
often the model would give it. Of choices, a mean over tokens would prefer long ones, whose last tokens follow
from their first.

Shape letters: B questions, N image tokens, M text tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from vilg.device import moved
from vilg.errors import require
from vilg.model.generator import Generator, image_to_text_log_probs
from vilg.sampling.batches import LARGEST_BATCH, slices
from vilg.sampling.texts import USUAL_BEAM, WIDEST_BEAM, generate_texts, search_text
from vilg.text import TextError, TextTokenizer


class Answer(str):
    """An answer of one line, and how likely its model finds it.

    Attributes:
        log_prob: log P of the whole answer given picture and question, in nats.
    """

    log_prob: float

    def __new__(cls, text: str, log_prob: float = 0.0) -> Self:
        answer = super().__new__(cls, text)
        answer.log_prob = log_prob
        return answer


def answers(
    generator: Generator,
    tokenizer: TextTokenizer,
    image_ids_BN: Tensor,
    questions: Sequence[Sequence[int]],
    language_ids: Sequence[int],
    foreign_BV: Tensor,
) -> list[Answer]:
    """Answer a question about each picture, with the likeliest token each time.

    Args:
        foreign_BV: True on tokens that an answer must not have.
    """
    found = []
    for part in slices(len(questions), LARGEST_BATCH):
        asked = image_ids_BN[part], questions[part], language_ids[part]
        texts = generate_texts(
            generator,
            image_ids_BN[part],
            language_ids[part],
            range(len(questions[part])),
            foreign_V=foreign_BV[part],
            questions=questions[part],
        )
        found += _with_log_probs(tokenizer, texts, _log_probs(generator, *asked, texts))
    return found


def likeliest_answers(
    generator: Generator,
    tokenizer: TextTokenizer,
    image_ids_1N: Tensor,
    question: Sequence[int],
    language_id: int,
    n: int,
    foreign_V: Tensor,
) -> list[Answer]:
    """Return the `n` likeliest answers that a beam finds, likeliest first.

    Raises:
        SettingError: more than a beam can be wide.
    """
    require(n <= WIDEST_BEAM, f"at most {WIDEST_BEAM} answers can be looked for, not {n}")
    texts = search_text(
        generator,
        image_ids_1N[0],
        language_id,
        max(n, USUAL_BEAM),
        foreign_V=foreign_V,
        question=question,
    )
    log_probs = _log_probs(generator, image_ids_1N, [question], [language_id], texts)
    return _likeliest(_with_log_probs(tokenizer, texts, log_probs), n)


def chosen_answers(
    generator: Generator,
    image_ids_1N: Tensor,
    question: Sequence[int],
    language_id: int,
    choices: Sequence[str],
    texts: Sequence[Sequence[int]],
) -> list[Answer]:
    """Return all choices, likeliest first.

    Args:
        texts: the choices in tokens.

    Raises:
        TextError: two of them are the same tokens.
    """
    first: dict[tuple[int, ...], str] = {}
    for choice, text in zip(choices, map(tuple, texts), strict=True):
        if text in first:
            raise TextError(
                f"the choices {first[text]!r} and {choice!r} are the same to this model: leave one out"
            )
        first[text] = choice
    log_probs = _log_probs(generator, image_ids_1N, [question], [language_id], texts)
    found = [Answer(choice, value) for choice, value in zip(choices, log_probs, strict=True)]
    return _likeliest(found, len(found))


@torch.inference_mode()
def _log_probs(
    generator: Generator,
    image_ids_BN: Tensor,
    questions: Sequence[Sequence[int]],
    language_ids: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> list[float]:
    """Return how likely each text is as an answer; of one question there may be many, of several one each."""
    image_ids_BN, found = moved(image_ids_BN, generator.device), []
    for part in slices(len(texts), LARGEST_BATCH):
        languages = [*language_ids] * (len(texts[part]) // len(questions))
        log_probs_RM, _ = image_to_text_log_probs(
            generator, image_ids_BN, languages, texts[part], questions
        )
        found.append(log_probs_RM.sum(dim=1))
    return torch.cat(found).cpu().tolist()


def _with_log_probs(
    tokenizer: TextTokenizer, texts: Sequence[Sequence[int]], log_probs: Sequence[float]
) -> list[Answer]:
    # A model may write any byte, a line break too.
    lines = (" ".join(tokenizer.decode(text).split()) for text in texts)
    return [Answer(line, value) for line, value in zip(lines, log_probs, strict=True)]


def _likeliest(found: list[Answer], n: int) -> list[Answer]:
    return sorted(found, key=lambda answer: -answer.log_prob)[:n]
