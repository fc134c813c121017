"""Do a picture and its caption belong together? A score from 0 to 1 for every pair of a source.

The paper keeps pairs from the web whose score by an in-house model is over 0.5 (section 4.1). Here the
evidence is how likely a model of ours makes picture and caption from each other, or a CLIP's cosine. What
that is worth says a logistic fit: a sample of the source's own pairs against the same pairs with their
captions shuffled. At 0.5 both are equally likely, were there as many of one as of the other.

Shape letters: S cases, F features, B pictures, T texts, N image tokens, Y X pixels.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vilg.data.filter import MATCHING
from vilg.data.lines import Row, write_lines
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import Worker
from vilg.data.sources import Source
from vilg.device import moved
from vilg.files import write_whole
from vilg.images import ImageError, batch_of, open_picture, square, to_array, to_pixels
from vilg.model.generator import Generator, text_to_image_log_probs
from vilg.progress import Progress
from vilg.randomness import integers, shuffle_within, uniforms
from vilg.sampling.batches import slices
from vilg.sampling.clip import ClipRanker, RankerError
from vilg.sampling.rank import caption_scores, image_scores, rows_at_once
from vilg.text import TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer

CALIBRATION = "calibration.json"
SAMPLE = 1000  # about so many pairs are fitted to; the error of a share among them is 1.6%
FEWEST = 20
_SEED = 0
_CHUNK = 4096


@dataclass(frozen=True)
class Text:
    """A caption, and which of the pictures it is said of."""

    picture: int
    lang: str
    text: str


Features = list[float]


class Matcher(Protocol):
    """Measures how well captions fit their pictures, by one or more features.

    Attributes:
        name, fingerprint: who it is, and its weights.
        features: their names; the more of each the better.
        num_at_once: pictures that it is given at once.
    """

    name: str
    fingerprint: str
    features: tuple[str, ...]
    num_at_once: int

    def __call__(
        self, pictures: Sequence[Image.Image], texts: Sequence[Text]
    ) -> Sequence[Features | str]:
        """Return each text's features, or why there are none."""
        ...


class ModelMatcher:
    """How likely a model makes both from each other, in nats a token: a `Matcher`.

    image_gain is mean log P(z_k | text, z_<k) less the same without the text, so that a picture which is easy
    to draw is not taken for one that fits. text_log_prob is mean log P(t_k | picture, t_<k).
    """

    features: tuple[str, ...] = ("image_gain", "text_log_prob")

    def __init__(
        self,
        name: str,
        fingerprint: str,
        generator: Generator,
        image_tokenizer: ImageTokenizer,
        words: TextTokenizer,
    ):
        self.name, self.fingerprint = name, fingerprint
        self.generator, self.image_tokenizer, self.words = generator, image_tokenizer, words
        self.num_at_once = batch_of(image_tokenizer.config.image_size)

    @torch.inference_mode()
    def __call__(
        self, pictures: Sequence[Image.Image], texts: Sequence[Text]
    ) -> list[Features | str]:
        size, longest = self.image_tokenizer.config.image_size, self.generator.config.max_text - 1
        tokens = [self.words.encode(text.text) for text in texts]
        found: list[Features | str] = [
            f"{len(ids)} tokens, the model reads 1 to {longest}" for ids in tokens
        ]
        good = [i for i, ids in enumerate(tokens) if 1 <= len(ids) <= longest]
        if not good:
            return found
        arrays_BYX3 = np.stack([to_array(square(picture, size)) for picture in pictures])
        device = self.generator.device
        image_ids_BN = self.image_tokenizer.encode(to_pixels(arrays_BYX3, device)).flatten(1)
        alone_B = torch.cat(
            [
                text_to_image_log_probs(self.generator, [[]] * len(part_BN), part_BN).mean(dim=1)
                for part_BN in image_ids_BN.split(rows_at_once(self.generator))
            ]
        )
        of = moved(torch.tensor([texts[i].picture for i in good]), device)
        prompts = [tokens[i] for i in good]
        languages = [self.words.language_id(texts[i].lang) for i in good]
        gain_T = image_scores(self.generator, prompts, image_ids_BN[of]) - alone_B[of]
        text_T = caption_scores(self.generator, image_ids_BN[of], languages, prompts)
        for i, features in zip(
            good, torch.stack([gain_T, text_T], dim=1).cpu().tolist(), strict=True
        ):
            found[i] = features
        return found


class ClipMatcher:
    """The cosine of a CLIP: a `Matcher`."""

    features: tuple[str, ...] = ("cosine",)
    num_at_once = 16

    def __init__(self, name: str, ranker: ClipRanker):
        self.name, self.fingerprint, self.ranker = name, ranker.fingerprint, ranker

    def __call__(
        self, pictures: Sequence[Image.Image], texts: Sequence[Text]
    ) -> list[Features | str]:
        found: list[Features | str] = []
        for text in texts:
            try:
                found.append([*self.ranker(text.text, [pictures[text.picture]])])
            except RankerError as error:  # longer than it reads
                found.append(str(error))
        return found


@dataclass(frozen=True)
class Calibration:
    """How features become a score: by a logistic function, fitted to pairs and shuffled pairs.

    Attributes:
        weights: of each feature, and last what is added.
        pairs, shuffled: how many there were of each, and which share of them scores over 0.5.
        sample: whose picture, which caption, and whose picture it was shuffled to.
    """

    by: str
    fingerprint: str
    source: str
    seed: int
    features: tuple[str, ...]
    weights: tuple[float, ...]
    pairs: int
    shuffled: int
    pairs_over_half: float
    shuffled_over_half: float
    sample: Sequence[tuple[str, str, str]]

    def score(self, features_SF: NDArray[np.float64]) -> NDArray[np.float64]:
        return logistic(features_SF, np.array(self.weights))


def logistic(features_SF: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-(w x + w_0))), w_0 standing last."""
    # By tanh, which does not overflow.
    return 0.5 + 0.5 * np.tanh(0.5 * (features_SF @ weights[:-1] + weights[-1]))


def fit_logistic(
    features_SF: NDArray[np.float64], is_pair_S: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the likeliest weights, by Newton's method.

    Features are brought to mean 0 and variance 1, and their weights have a normal prior of variance 1, so that
    there is a maximum also where one feature tells all cases apart.
    """
    mean_F, scale_F = features_SF.mean(axis=0), features_SF.std(axis=0)
    scale_F[scale_F == 0] = 1
    x_SG = np.column_stack([(features_SF - mean_F) / scale_F, np.ones(len(features_SF))])
    prior_G = np.ones(x_SG.shape[1])
    prior_G[-1] = 0
    weights_G = np.zeros(x_SG.shape[1])
    for _ in range(100):
        p_S = logistic(x_SG[:, :-1], weights_G)
        slope_G = x_SG.T @ (is_pair_S - p_S) - prior_G * weights_G
        bend_GG = (x_SG * (p_S * (1 - p_S))[:, None]).T @ x_SG + np.diag(prior_G)
        step_G = np.linalg.solve(bend_GG, slope_G)
        weights_G = weights_G + step_G
        if np.abs(step_G).max() < 1e-10:
            break
    weights_F = weights_G[:-1] / scale_F
    return np.append(weights_F, weights_G[-1] - weights_F @ mean_F)


def write_matching(
    source: Source, out: Path, matcher: Matcher, worker: Worker | None = None
) -> bool:
    """Score each pair; return whether all are, or other workers are still at it.

    A pair's score is that of its caption that fits least. Captions that the matcher cannot read don't count;
    a pair without any other, or without a readable picture, has no score.

    Raises:
        DataError: too few pairs to fit a score to.
    """
    return write_lines(
        source,
        out / MATCHING,
        {"by": matcher.name, "weights": matcher.fingerprint, "sample": SAMPLE, "seed": _SEED},
        partial(_measure, matcher),
        what="matching scores",
        worker=worker,
        finish=partial(_calibrate, source, out / CALIBRATION, matcher),
    )


def read_calibration(out: Path) -> Calibration:
    """Return how the scores in a folder were made."""
    fields = json.loads((out / CALIBRATION).read_text(encoding="utf-8"))
    return Calibration(**fields)


def _measure(matcher: Matcher, items: Sequence[Pair | Reject]) -> list[Row]:
    """Return the features of each pair's captions, as columns by caption."""
    rows: list[Row] = [{"id": item.id} for item in items]
    seen = [
        (row, item)
        for row, item in zip(rows, items, strict=True)
        if isinstance(item, Pair) and item.picture is not None and item.captions
    ]
    for part in slices(len(seen), matcher.num_at_once):
        pictures: list[Image.Image] = []
        owners, texts = list[Row](), list[Text]()
        for row, pair in seen[part]:
            picture = _open(pair)
            if picture is None:
                continue
            for lang, captions in pair.captions.items():
                texts += [Text(len(pictures), lang, caption) for caption in captions]
                owners += [row] * len(captions)
            pictures.append(picture)
        for row, found in zip(owners, matcher(pictures, texts), strict=True):
            if isinstance(found, str):
                row.setdefault("unread", []).append(found)
            values = [None] * len(matcher.features) if isinstance(found, str) else found
            for name, value in zip(matcher.features, values, strict=True):
                row.setdefault(name, []).append(None if value is None else round(value, 4))
    return rows


def _open(pair: Pair) -> Image.Image | None:
    """Open a pair's picture; what is broken stands in the columns, where it is counted."""
    assert pair.picture is not None
    try:
        return open_picture(pair.picture())
    except (ImageError, OSError):
        return None


def _calibrate(source: Source, path: Path, matcher: Matcher) -> Callable[[Row], Row]:
    calibration = calibrate(source, matcher)
    write_whole(path, json.dumps(asdict(calibration), ensure_ascii=False) + "\n")

    def change(row: Row) -> Row:
        columns = [row.get(name, []) for name in matcher.features]
        features = [values for values in zip(*columns, strict=True) if None not in values]
        if not features:
            return row
        return {**row, "matching": round(float(calibration.score(np.array(features)).min()), 4)}

    return change


def calibrate(source: Source, matcher: Matcher) -> Calibration:
    """Fit a score to a sample of a source's pairs, and the same with captions of others.

    About `SAMPLE` pairs are taken, each of which has the same chance whatever stands where, with one of
    their captions. It is shuffled to another picture with a caption in its language.

    Raises:
        DataError: there are fewer than `FEWEST` pairs, or as few can be shuffled.
    """
    pairs = list(_sample(source))
    pictures = [_open(pair) for pair, _ in pairs]
    keys = [(text.lang, text.text) for _, text in pairs]
    good = [i for i, picture in enumerate(pictures) if picture is not None]
    places, given = shuffle_within([pairs[i][1].lang for i in good], _SEED)
    others = [
        (good[i], good[j])
        for i, j in zip(places, given, strict=True)
        if keys[good[i]] != keys[good[j]]
    ]
    cases = [(i, i) for i in good] + others
    features, is_pair, used = list[Features](), list[bool](), list[tuple[str, str, str]]()
    with Progress("pairs", what="calibration") as progress:
        for part in slices(len(cases), matcher.num_at_once):
            batch = [pictures[j] for _, j in cases[part]]
            texts = [replace(pairs[i][1], picture=n) for n, (i, _) in enumerate(cases[part])]
            found = matcher([picture for picture in batch if picture is not None], texts)
            for (i, j), values in zip(cases[part], found, strict=True):
                if not isinstance(values, str):
                    features.append(values)
                    is_pair.append(i == j)
                    used.append((pairs[i][0].id, pairs[i][1].text, pairs[j][0].id))
            progress(min(part.stop, len(cases)), len(cases))
    is_pair_S = np.array(is_pair, bool)
    num_pairs, num_shuffled = int(is_pair_S.sum()), int((~is_pair_S).sum())
    if min(num_pairs, num_shuffled) < FEWEST:
        raise DataError(
            f"{source.given} has {num_pairs} pairs that {matcher.name} can read, of which {num_shuffled} can "
            f"be shuffled; a matching score is fitted to {FEWEST} at least"
        )
    features_SF = np.array(features)
    weights = fit_logistic(features_SF, is_pair_S)
    is_over_S = logistic(features_SF, weights) > 0.5
    return Calibration(
        matcher.name,
        matcher.fingerprint,
        source.told,
        _SEED,
        matcher.features,
        tuple(weights.tolist()),
        num_pairs,
        num_shuffled,
        float(is_over_S[is_pair_S].mean()),
        float(is_over_S[~is_pair_S].mean()),
        used,
    )


def _sample(source: Source) -> Iterator[tuple[Pair, Text]]:
    """Yield the pairs of the sample with one of the captions each; their pictures are read at once.

    A pair may know its picture by holding much else, such as the shard that it is in.
    """
    for place, item in enumerate(source):
        if place % _CHUNK == 0:
            chance = uniforms(_SEED, "calibration", place + np.arange(_CHUNK))
        if chance[place % _CHUNK] * source.identity.items >= SAMPLE or not isinstance(item, Pair):
            continue
        captions = [(lang, text) for lang, texts in item.captions.items() for text in texts]
        if item.picture is None or not captions:
            continue
        try:
            content = item.picture()
        except OSError:
            continue
        number = int(integers(_SEED, "calibration caption", len(captions), place))
        yield replace(item, picture=partial(bytes, content)), Text(0, *captions[number])
