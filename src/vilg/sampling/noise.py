"""Drawing a token: filters on the logits, then the inverse of the cumulative distribution.

One uniform number decides a draw, and it is a function of (image seed, step) alone: the same image
comes out whatever its place in the batch and whoever its neighbours are.

Shape letters: B batch, K vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vilg.randomness import uniforms


def draw_uniforms(seeds: Sequence[int], step: int) -> Tensor:
    """Return one number in [0, 1) a sequence, for a step of its generation."""
    drawn = [float(uniforms(seed, "draw", step)) for seed in seeds]
    return torch.from_numpy(np.array(drawn))


def keep_top_k(logits_BK: Tensor, top_k: int) -> Tensor:
    """Put all but the k largest logits of each row to minus infinity; ties at the edge stay."""
    if top_k >= logits_BK.shape[-1]:
        return logits_BK
    edge_B1 = logits_BK.topk(top_k, dim=-1).values[:, -1:]
    return logits_BK.masked_fill(logits_BK < edge_B1, -torch.inf)


def draw(
    logits_BK: Tensor, uniforms_B: Tensor, *, temperature: float = 1.0, top_k: int | None = None
) -> Tensor:
    """Return one id a row: the first whose cumulative probability exceeds the row's number.

    Args:
        temperature: 1 samples the model as it is (the paper's choice), 0 takes the likeliest id.
        top_k: draw among the k likeliest only.
    """
    # Minus infinity forbids an id; NaN, or a row of nothing else, is a broken model.
    assert bool(logits_BK.amax(dim=-1).isfinite().all()), "the model's logits are not finite"
    if temperature == 0:
        return logits_BK.argmax(dim=-1)
    if top_k is not None:
        logits_BK = keep_top_k(logits_BK, top_k)
    # The maximum goes first: the smallest temperatures would overflow.
    below_BK = logits_BK.double() - logits_BK.max(dim=-1, keepdim=True).values
    cumulative_BK = (below_BK / temperature).softmax(dim=-1).cumsum(dim=-1)
    # The last sum may fall short of 1 by rounding: scale the number instead of drawing outside.
    target_B1 = uniforms_B.to(cumulative_BK)[:, None] * cumulative_BK[:, -1:]
    return torch.searchsorted(cumulative_BK, target_B1, right=True).squeeze(-1)
