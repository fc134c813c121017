"""Does the drawn picture show its prompt? Retrieval by the judge, for the best of N candidates.

A prompt is a picture's caption. The drawing is found at rank r if, of all pictures of the prompt's
style in the data set, r - 1 are nearer to it than the prompt's own picture, by the cosine of the judge's
features; top-1 and top-5 are the shares of prompts found at ranks up to 1 and 5.

The candidates of N = 4 are the first of those of N = 16, and so on; which is the best says the model
itself, by how likely the prompt is as the candidate's caption. The judge has no say in that.

Ceiling: the tokenizer's reconstruction of the prompt's own picture, which is as near as a drawing of
these tokens can come. Floor: drawings against the pictures of other prompts of the same style.

Shape letters: L languages, S prompts, N candidates, G pictures of a style, F features, Y X pixels.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilg.api import Vilg
from vilg.data.pairs import Pair
from vilg.data.pictures import load_pictures
from vilg.evaluation.judge import Judge
from vilg.evaluation.likeness import unit
from vilg.images import to_array
from vilg.progress import in_batches
from vilg.randomness import shuffle_within
from vilg.sampling.candidates import best, by_model, candidate_seeds, draw_best
from vilg.sampling.images import Drawn
from vilg.shipped.samples import Splits, encode_captions, positions_by_style
from vilg.text import LANGUAGES

NUM_CANDIDATES = (1, 4, 16, 60)  # 60 and 10 are the paper's (section 4.2)

Ranks = NDArray[np.int64]


@dataclass(frozen=True)
class Gallery:
    """The judge's features of all pictures of a style, each of length 1, and whose they are."""

    features_GF: NDArray[np.float64]
    place: dict[str, int]

    def ranks(self, made_SF: NDArray[np.float64], ids: Sequence[str]) -> Ranks:
        """Return at which rank the pictures of these ids are found; of equals, the other is nearer."""
        cosine_SG = unit(made_SF) @ self.features_GF.T
        assert bool(np.isfinite(cosine_SG).all())
        own_S = cosine_SG[np.arange(len(ids)), [self.place[id] for id in ids]]
        return (cosine_SG >= own_S[:, None]).sum(axis=1)


@dataclass(frozen=True)
class Found:
    """At which ranks prompts find their pictures, each ranks_LS.

    Attributes:
        floor: with the pictures of other prompts.
        best_of: by the number of candidates.
    """

    floor: Ranks
    best_of: dict[int, Ranks]

    def scores(self) -> dict[str, Any]:
        return {
            "floor": _shares(self.floor),
            "best_of": {
                str(num): {**_shares(ranks_LS), "gain": _gains(ranks_LS, self.best_of[1])}
                for num, ranks_LS in self.best_of.items()
            },
        }


def together(found: Sequence[Found]) -> Found:
    """Put languages beside each other."""
    return Found(
        np.concatenate([part.floor for part in found]),
        {num: np.concatenate([part.best_of[num] for part in found]) for num in found[0].best_of},
    )


def galleries(judge: Judge, samples: Sequence[Pair], size: int) -> dict[str, Gallery]:
    """Look at all pictures of a data set, style by style."""
    by_style = {}
    for style, rows in positions_by_style(samples).items():
        members = [samples[i] for i in rows]
        arrays_GYX3 = load_pictures(members, size)
        features_GF = unit(judge.features(arrays_GYX3, f"pictures judged, {style}"))
        place = {sample.id: i for i, sample in enumerate(members)}
        by_style[style] = Gallery(features_GF, place)
    return by_style


def score_drawing(
    vilg: Vilg, judge: Judge, splits: Splits, num_prompts: int, shuffle_seed: int
) -> dict[str, Any]:
    """Return by split and language the shares of prompts whose drawing finds its picture.

    Under "both" stands the mean of both languages.

    Args:
        num_prompts: the first of each split.
        shuffle_seed: which other prompt's picture the floor is measured with.
    """
    shelf = galleries(judge, splits.samples, vilg.image_size)
    settings = dataclasses.asdict(dataclasses.replace(vilg.model.sampling, best_of=1))
    scores: dict[str, Any] = {}
    for split, chosen in splits.chosen.items():
        samples = chosen[:num_prompts]
        originals_SYX3 = load_pictures(samples, vilg.image_size)
        ids_SN = vilg.encode([Image.fromarray(array) for array in originals_SYX3])
        rebuilt_SYX3 = np.stack([to_array(picture) for picture in vilg.decode(ids_SN)])
        ceiling_S = _ranks(judge, shelf, samples, samples, rebuilt_SYX3, f"ceiling, {split}")
        found = {
            lang: _find(vilg, judge, shelf, samples, lang, split, shuffle_seed)
            for lang in LANGUAGES
        }
        found["both"] = together([*found.values()])
        scores[split] = {
            "num": len(samples),
            "num_pictures": {style: len(gallery.place) for style, gallery in shelf.items()},
            "ceiling": _shares(ceiling_S[None]),
            **{lang: part.scores() for lang, part in found.items()},
        }
    return {"sampling": settings, "splits": scores}


def _find(
    vilg: Vilg,
    judge: Judge,
    shelf: dict[str, Gallery],
    samples: Sequence[Pair],
    lang: str,
    split: str,
    shuffle_seed: int,
) -> Found:
    """Draw the prompts of a language and look for their pictures."""
    drawn = _draw_best(vilg, samples, lang, f"{split}, {lang}")
    ranks = {
        num: _ranks(judge, shelf, samples, samples, arrays, f"best of {num}, {split}, {lang}")[None]
        for num, arrays in drawn.items()
    }
    i, j = shuffle_within([sample.tags["style"] for sample in samples], shuffle_seed)
    owners, others = [samples[k] for k in i], [samples[k] for k in j]
    floor_S = _ranks(judge, shelf, owners, others, drawn[1][i], f"floor, {split}, {lang}")
    return Found(floor_S[None], ranks)


def _draw_best(
    vilg: Vilg, samples: Sequence[Pair], lang: str, what: str
) -> dict[int, NDArray[np.uint8]]:
    """Return for each number of candidates the best one's pixels_SYX3 of every prompt."""
    max_text = vilg.generator.config.max_text
    texts = encode_captions(samples, lang, vilg.text_tokenizer, max_text)
    languages = [vilg.text_tokenizer.language_id(lang)] * len(texts)
    score = by_model(vilg.generator, texts, languages)
    settings = dataclasses.replace(vilg.model.sampling, best_of=1)
    made: dict[int, list[NDArray[np.uint8]]] = {num: [] for num in NUM_CANDIDATES}
    for part in in_batches(len(texts), 1, f"prompts drawn, {what}"):
        seeds = candidate_seeds(part.start, max(NUM_CANDIDATES))
        same = texts[part] * len(seeds)
        drawn = Drawn.joined([*draw_best(vilg.generator, same, seeds, settings, score)])
        scores_1N = score(part, drawn, None)[None]
        for num in NUM_CANDIDATES:
            (picture,) = vilg.pictures(drawn.chosen(best(scores_1N[:, :num])))
            made[num].append(to_array(picture))
    return {num: np.stack(arrays) for num, arrays in made.items()}


def _ranks(
    judge: Judge,
    shelf: dict[str, Gallery],
    prompts: Sequence[Pair],
    owners: Sequence[Pair],
    arrays_SYX3: NDArray[np.uint8],
    what: str,
) -> Ranks:
    """Return at which rank the picture of each owner is found in the prompt's style."""
    features_SF = judge.features(arrays_SYX3, what)
    ranks_S = np.empty(len(prompts), dtype=np.int64)
    for style, rows in positions_by_style(prompts).items():
        ranks_S[rows] = shelf[style].ranks(features_SF[rows], [owners[i].id for i in rows])
    return ranks_S


def _shares(ranks_LS: Ranks) -> dict[str, float | None]:
    """Return top-1 and top-5; nothing was measured where there are no pairs."""
    return {f"top{k}": float((ranks_LS <= k).mean()) if ranks_LS.size else None for k in (1, 5)}


def _gains(ranks_LS: Ranks, one_LS: Ranks) -> dict[str, dict[str, float | None]]:
    """Return what is gained over best of 1, picture by picture, with the standard error of the mean.

    The prompts of a picture in several languages are one case: they succeed and fail together. One case
    has no spread, so no error can be told.
    """
    gains = {}
    for k in (1, 5):
        gain_S = ((ranks_LS <= k).astype(float) - (one_LS <= k)).mean(axis=0)
        S = len(gain_S)
        error = float(gain_S.std(ddof=1)) / math.sqrt(S) if S > 1 else None
        gains[f"top{k}"] = {"mean": float(gain_S.mean()), "standard_error": error}
    return gains
