"""The best of N: the candidates of a picture, and which of them is kept.

Shape letters: G pictures, N candidates, B images (G times N, picture by picture).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import torch
from PIL import Image
from torch import Tensor

from vilg.device import moved
from vilg.errors import SettingError, require
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator
from vilg.randomness import bits
from vilg.sampling.batches import largest_batch, runs_at_once, slices
from vilg.sampling.images import Drawn, Kept, draw_images
from vilg.sampling.rank import Ranker, caption_scores

# Called with the images that are finished, and image_ids_Bk of those under way.
WatchBatch = Callable[[int, Tensor], None]
# Returns the score of every candidate drawn of these pictures, to be compared within a picture.
Scorer = Callable[[slice, Drawn, Kept | None], Tensor]


def candidate_seeds(seed: int, best_of: int) -> list[int]:
    """Return the seeds of a picture's candidates: its own first, so that best of 1 is the plain picture."""
    others = range(1, best_of)
    return [seed, *(int(bits(seed, "candidate", j)) for j in others)]


def draw_best(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingConfig,
    score: Scorer,
    *,
    kept: Kept | None = None,
    watch: WatchBatch | None = None,
) -> Iterator[Drawn]:
    """Draw one image a text and seed, the best of its candidates; yield each batch when it is done.

    Equal neighbours among the texts are read once, unless tokens are kept.

    Args:
        watch: told of candidates.
    """
    N, size = settings.best_of, largest_batch(generator, settings)
    counts = (
        [len([*run]) for _, run in groupby(texts, key=list)] if kept is None else [1] * len(texts)
    )
    for part in runs_at_once(counts, max(1, size // N)):
        groups = (
            [text for text, _ in groupby(texts[part], key=list)] if kept is None else texts[part]
        )
        here = kept and Kept(kept.image_ids_GN[part], kept.keep_GN[part])
        each = [x for seed in seeds[part] for x in candidate_seeds(seed, N)]
        drawn = Drawn.joined(
            [
                draw_images(
                    generator,
                    groups,
                    each[rows],
                    settings,
                    kept=here,
                    watch=watch and partial(watch, part.start * N + rows.start),
                )
                for rows in slices(len(each), size)
            ]
        )
        yield drawn if N == 1 else drawn.chosen(best(score(part, drawn, here).view(-1, N)))


def best(scores_GN: Tensor, num: int = 1) -> list[int]:
    """Return where the `num` best of each row stand, best first, counted through all rows."""
    scores_GN, N = scores_GN.cpu(), scores_GN.shape[1]
    rows_Gk = scores_GN.argsort(dim=1, descending=True, stable=True)[:, :num]
    return (rows_Gk + N * torch.arange(len(rows_Gk))[:, None]).flatten().tolist()


def by_ranker(
    rank: Ranker, prompts: Sequence[str], pictures: Callable[[Drawn], list[Image.Image]]
) -> Scorer:
    """Score candidates by what a ranker says of their pictures."""

    def score(part: slice, drawn: Drawn, kept: Kept | None) -> Tensor:
        shown, here = pictures(drawn), prompts[part]
        count = len(shown) // len(here)
        groups = slices(len(shown), count)
        scores = [rank(prompt, shown[group]) for prompt, group in zip(here, groups, strict=True)]
        message = f"a ranker must give every one of {count} pictures a finite score"
        try:
            rows_N = [torch.as_tensor(row, dtype=torch.float64) for row in scores]
        except Exception as error:  # torch has many words for what is no row of numbers
            raise SettingError(message) from error
        are_finite = [row_N.shape == (count,) and bool(row_N.isfinite().all()) for row_N in rows_N]
        require(all(are_finite), message)
        return torch.cat(rows_N)

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
        by_kept_B = moved(by_kept_B, by_caption_B.device)
        return torch.where(by_kept_B, drawn.kept_log_prob_B, by_caption_B)

    return score
