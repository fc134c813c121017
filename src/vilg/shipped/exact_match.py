"""Are the greedy captions exactly right, word for word?

A caption is "name, style": the last comma of its language parts the two, in the written captions and
in the true ones. Texts are compared as the tokenizer normalises them. On training pictures an exact
match is memorisation.

The baseline is a model that is blind: it gives every picture the caption that is most frequent in the
train split, or, scored apart, the most frequent name and the most frequent style (of equals, the first
in the alphabet). Its shares are taken over the whole split, also where only some pictures get
captions: on a sample of 500 a share of 1 in 4,578 would show as 0.

Shape letters: S samples, N image tokens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from vilg.api import Vilg
from vilg.data.pairs import Pair
from vilg.progress import in_batches
from vilg.sampling.texts import generate_texts
from vilg.shipped.samples import TRAIN, Splits, positions_by_style
from vilg.text import LANGUAGES, normalise

COMMAS = {"zh": "，", "en": ","}

_BATCH = 50
_ASPECTS = ("caption", "name", "style")

Aspects = dict[str, str]


def aspects(caption: str, lang: str) -> Aspects:
    """Return a caption, normalised, with its name and its style, which is empty without a comma."""
    caption = normalise(caption)
    name, comma, style = caption.rpartition(COMMAS[lang])
    if not comma:
        name, style = caption, ""
    return {"caption": caption, "name": name.strip(), "style": style.strip()}


def most_frequent(truth: Iterable[Aspects]) -> Aspects:
    """Return the most frequent caption, name and style, each for itself."""
    rows = list(truth)
    return {aspect: _commonest([row[aspect] for row in rows]) for aspect in _ASPECTS}


def _commonest(texts: Iterable[str]) -> str:
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))


def exact_match(written: Sequence[Aspects], truth: Sequence[Aspects]) -> dict[str, float]:
    """Return the shares of texts whose caption, name and style are right."""
    pairs = list(zip(written, truth, strict=True))
    return {
        aspect: sum(row[aspect] == true[aspect] for row, true in pairs) / len(pairs)
        for aspect in _ASPECTS
    }


def score_captions(vilg: Vilg, splits: Splits, image_ids: dict[str, Tensor]) -> dict[str, Any]:
    """Return by language and split the exact matches with their baseline, over all and by style.

    Args:
        image_ids: image_ids_SN of the chosen pictures of each split.
    """
    scores: dict[str, Any] = {}
    for lang in LANGUAGES:
        blind = most_frequent(_truth(splits.whole[TRAIN], lang))
        scores[lang] = {}
        for name, samples in splits.chosen.items():
            texts = write_captions(vilg, image_ids[name], lang, f"captions, {name}, {lang}")
            written = [aspects(text, lang) for text in texts]
            scores[lang][name] = _score_split(written, samples, splits.whole[name], blind, lang)
    return scores


def write_captions(vilg: Vilg, image_ids_SN: Tensor, lang: str, what: str) -> list[str]:
    """Return the likeliest words for each picture, taken one at a time (greedy)."""
    language_id, foreign_V = vilg.text_tokenizer.language_id(lang), vilg.foreign_tokens[lang]
    texts: list[str] = []
    for part in in_batches(len(image_ids_SN), _BATCH, what):
        ids_BN = image_ids_SN[part]
        size = len(ids_BN)
        rows = generate_texts(
            vilg.generator, ids_BN, [language_id] * size, [0] * size, foreign_V=foreign_V
        )
        texts += [vilg.text_tokenizer.decode(row) for row in rows]
    return texts


def _truth(samples: Iterable[Pair], lang: str) -> list[Aspects]:
    return [aspects(sample.captions[lang][0], lang) for sample in samples]


def _score_split(
    written: Sequence[Aspects],
    samples: Sequence[Pair],
    whole: Sequence[Pair],
    blind: Aspects,
    lang: str,
) -> dict[str, Any]:
    truth, whole_truth = _truth(samples, lang), _truth(whole, lang)
    in_whole = positions_by_style(whole)

    def scores(chosen: Iterable[int], whole_rows: Iterable[int]) -> dict[str, Any]:
        rows, all_rows = list(chosen), list(whole_rows)
        baseline = exact_match([blind] * len(all_rows), [whole_truth[i] for i in all_rows])
        matches = exact_match([written[i] for i in rows], [truth[i] for i in rows])
        return {"num": len(rows), **matches, "baseline": baseline}

    by_style = {
        style: scores(rows, in_whole[style]) for style, rows in positions_by_style(samples).items()
    }
    return {"all": scores(range(len(samples)), range(len(whole))), "by_style": by_style}
