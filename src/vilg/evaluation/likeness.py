"""How alike pictures are to their originals, seen by features: retrieval and kernel distance.

Row s of one matrix is the partner of row s of the other: a reconstruction and its original.

Shape letters: S pictures, F features, H random halves.
"""

import math

import numpy as np
from numpy.typing import NDArray

from vilg.randomness import uniforms

Features = NDArray[np.float64]

# The spread of a hundred is known to 7%.
_NUM_HALVES = 100


def finds_original(made_SF: Features, originals_SF: Features) -> NDArray[np.bool_]:
    """Return for each made picture whether its own original is the nearest of all, by cosine.

    It competes with every other original that is given; one as near as its own counts as nearer.
    """
    cosine_SS = unit(made_SF) @ unit(originals_SF).T
    own_S = cosine_SS.diagonal().copy()
    np.fill_diagonal(cosine_SS, -np.inf)
    return own_S > cosine_SS.max(axis=1)


def unit(features_SF: Features) -> Features:
    """Scale every picture's features to length 1."""
    return features_SF / np.linalg.norm(features_SF, axis=1, keepdims=True)


def kernel_distance(
    made_SF: Features, originals_SF: Features, seed: int
) -> dict[str, float] | None:
    """Return the squared maximum mean discrepancy and its standard error; None under 4 pictures.

    The kernel is KID's, (x . y / F + 1)^3 (Binkowski et al., arXiv 1801.01401, section 4). The
    estimate is unbiased, so that it may fall below zero: the U-statistic of Gretton et al. 2012
    (JMLR 13, equation 4). That one leaves out the kernel of a picture with its own partner, which
    matters here: partners resemble each other, and counting them in would draw the distance of good
    reconstructions below zero.

    Subsets are halves, S // 2 pictures with their partners. The mean over all possible halves is the
    estimate from the whole set. The standard error is the spread over a hundred random ones, by the
    jackknife that leaves half out (Shao and Wu 1989); for sets that hardly differ, it comes out
    about 1.7 times too large.

    Args:
        seed: of the halves.
    """
    S = len(originals_SF)
    size = S // 2
    if size < 2:
        return None
    made_SS = _kernel(made_SF, made_SF)
    original_SS = _kernel(originals_SF, originals_SF)
    mixed_SS = _kernel(made_SF, originals_SF)
    gap_SS = made_SS + original_SS - mixed_SS - mixed_SS.T
    np.fill_diagonal(gap_SS, 0)

    halves = np.arange(_NUM_HALVES)[:, None]
    order_HS = uniforms(seed, "halves", halves, np.arange(S)).argsort(axis=1, kind="stable")
    inside_HS = (order_HS < size).astype(np.float64)
    distance_H = ((inside_HS @ gap_SS) * inside_HS).sum(axis=1) / (size * (size - 1))
    return {
        "mean": float(gap_SS.sum() / (S * (S - 1))),
        "standard_error": float(distance_H.std(ddof=1)) * math.sqrt(size / (S - size)),
    }


def _kernel(a_SF: Features, b_SF: Features) -> NDArray[np.float64]:
    return (a_SF @ b_SF.T / a_SF.shape[1] + 1) ** 3
