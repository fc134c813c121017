"""Drawing a token: filters on the logits, then the inverse of the cumulative distribution.

One uniform number decides a draw, and it is a function of (image seed, step) alone: the same image
comes out whatever its place in the batch and whoever its neighbours are.

Shape letters: B batch, K vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vilg.device import in_double
from vilg.model.defaults import SamplingConfig
from vilg.randomness import uniforms


def draw_uniforms(seeds: Sequence[int], num_steps: int) -> Tensor:
    """Return uniforms_BN in [0, 1): one number a sequence and step of its generation."""
    steps = np.arange(num_steps)
    return torch.from_numpy(np.stack([uniforms(seed, "draw", steps) for seed in seeds]))


def keep_top_k(logits_BK: Tensor, top_k: int) -> Tensor:
    """Put all but the k largest logits of each row to minus infinity; ties at the edge stay."""
    if top_k >= logits_BK.shape[-1]:
        return logits_BK
    edge_B1 = logits_BK.topk(top_k, dim=-1).values[:, -1:]
    return logits_BK.masked_fill(logits_BK < edge_B1, -torch.inf)


def keep_top_p(probabilities_BK: Tensor, top_p: float) -> Tensor:
    """Put all to zero but the fewest probabilities that sum to `top_p`; ties at the edge stay."""
    sorted_BK = probabilities_BK.sort(dim=-1, descending=True).values
    # The last that is needed: everything before it falls short.
    falls_short_BK = sorted_BK.cumsum(dim=-1) < top_p
    edge_B1 = sorted_BK.gather(
        1, falls_short_BK.sum(dim=-1, keepdim=True).clamp_max(sorted_BK.shape[1] - 1)
    )
    return probabilities_BK.masked_fill(probabilities_BK < edge_B1, 0.0)


def is_sound(logits_BK: Tensor) -> Tensor:
    """Return a truth: minus infinity forbids an id; NaN, or a row of nothing else, is a broken model."""
    return logits_BK.amax(dim=-1).isfinite().all()


def draw(logits_BK: Tensor, uniforms_B: Tensor, settings: SamplingConfig) -> Tensor:
    """Return one id a row: the first whose cumulative probability exceeds the row's number.

    Temperature 1 samples the model as it is (the paper's choice), 0 takes the likeliest id. Top-k comes
    first; top-p is of what it leaves, at this temperature. Logits that are not `is_sound` give any ids.
    """
    if settings.temperature == 0:
        return logits_BK.argmax(dim=-1)
    if settings.top_k is not None:
        logits_BK = keep_top_k(logits_BK, settings.top_k)
    # The maximum goes first: the smallest temperatures would overflow.
    exact_BK = in_double(logits_BK, logits_BK.device)
    below_BK = exact_BK - exact_BK.amax(dim=-1, keepdim=True)
    probabilities_BK = (below_BK / settings.temperature).softmax(dim=-1)
    if settings.top_p is not None:
        probabilities_BK = keep_top_p(probabilities_BK, settings.top_p)
    cumulative_BK = probabilities_BK.cumsum(dim=-1)
    # The last sum may fall short of 1 by rounding: scale the number instead of drawing outside.
    target_B1 = uniforms_B.to(cumulative_BK)[:, None] * cumulative_BK[:, -1:]
    ids_B = torch.searchsorted(cumulative_BK, target_B1, right=True).squeeze(-1)
    return ids_B.clamp_max_(logits_BK.shape[-1] - 1).to(logits_BK.device)
