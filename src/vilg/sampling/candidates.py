"""The best of N: the candidates of a picture, and which of them is kept.

Shape letters: G pictures, N candidates, B images (G times N, picture by picture).
"""

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from vilg.errors import require
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator
from vilg.randomness import bits
from vilg.sampling.batches import LARGEST_BATCH, WatchBatch, draw_in_batches
from vilg.sampling.images import Drawn, Kept
from vilg.sampling.rank import Ranker, caption_scores

# Returns the score of every candidate drawn of these pictures, to be compared within a picture.
Scorer = Callable[[slice, Drawn, Kept | None], Tensor]


def candidate_seeds(seed: int, best_of: int) -> list[int]:
    """Return the seeds of a picture's candidates: its own first, so that best of 1 is the plain picture."""
    others = range(1, best_of)
    return [seed, *(int(bits(seed, "candidate", j)) for j in others)]


def draw_candidates(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingConfig,
    *,
    kept: Kept | None = None,
    watch: WatchBatch | None = None,
) -> Drawn:
    """Draw `best_of` candidates of each text and seed."""
    each = [x for seed in seeds for x in candidate_seeds(seed, settings.best_of)]
    return draw_in_batches(generator, texts, each, settings, kept=kept, watch=watch)


def draw_best(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingConfig,
    score: Scorer,
    *,
    kept: Kept | None = None,
    watch: WatchBatch | None = None,
) -> Drawn:
    """Draw one image a text and seed, the best of its candidates.

    Of an image's candidates only the best is kept, before the next image's are drawn.

    Args:
        watch: told of candidates.
    """
    N, chosen = settings.best_of, []
    at_once = len(texts) if N == 1 else max(1, LARGEST_BATCH // N)
    for first in range(0, len(texts), at_once):
        part = slice(first, first + at_once)
        here = kept and Kept(kept.image_ids_GN[part], kept.keep_GN[part])

        def watch_part(finished: int, image_ids_Bk: Tensor, before: int = first * N) -> None:
            if watch:
                watch(before + finished, image_ids_Bk)

        drawn = draw_candidates(
            generator, texts[part], seeds[part], settings, kept=here, watch=watch_part
        )
        if N > 1:
            drawn = drawn.chosen(best(score(part, drawn, here).view(-1, N)))
        chosen.append(drawn)
    return Drawn.joined(chosen)


def best(scores_GN: Tensor, num: int = 1) -> list[int]:
    """Return where the `num` best of each row stand, best first, counted through all rows."""
    N = scores_GN.shape[1]
    rows_Gk = scores_GN.argsort(dim=1, descending=True, stable=True)[:, :num]
    return (rows_Gk + N * torch.arange(len(rows_Gk))[:, None]).flatten().tolist()


def by_ranker(
    rank: Ranker, prompts: Sequence[str], pictures: Callable[[Drawn], list[Image.Image]]
) -> Scorer:
    """Score candidates by what a ranker says of their pictures."""

    def score(part: slice, drawn: Drawn, kept: Kept | None) -> Tensor:
        shown, here = pictures(drawn), prompts[part]
        count = len(shown) // len(here)
        groups = [shown[i : i + count] for i in range(0, len(shown), count)]
        scores = [rank(prompt, group) for prompt, group in zip(here, groups, strict=True)]
        require(
            all(len(row) == count and all(map(math.isfinite, row)) for row in scores),
            f"a ranker must give every one of {count} pictures a finite score",
        )
        return torch.tensor(scores, dtype=torch.float64).flatten()

    return score


def by_model(
    generator: Generator, texts: Sequence[Sequence[int]], language_ids: Sequence[int]
) -> Scorer:
    """Score candidates by how likely they make the tokens kept behind them, or else their caption."""

    def score(part: slice, drawn: Drawn, kept: Kept | None) -> Tensor:
        count = len(drawn.image_ids_BN) // len(texts[part])
        by_kept_B = kept.has_kept_behind().repeat_interleave(count) if kept else None
        if by_kept_B is not None and bool(by_kept_B.all()):
            assert drawn.kept_log_prob_B is not None
            return drawn.kept_log_prob_B
        by_caption_B = caption_scores(
            generator,
            drawn.image_ids_BN,
            [id for id in language_ids[part] for _ in range(count)],
            [text for text in texts[part] for _ in range(count)],
        )
        if by_kept_B is None or drawn.kept_log_prob_B is None:
            return by_caption_B
        return torch.where(by_kept_B, drawn.kept_log_prob_B, by_caption_B)

    return score
