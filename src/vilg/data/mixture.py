"""Two stores read as one: a run's own pairs, and in every batch a share of those that are not to be forgotten."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vilg.data.order import batch_ids
from vilg.data.store import Store, Texts


class Mixture(Store):
    """A store whose further rows are another's, behind its own; `len` counts its own.

    Args:
        share: of each batch that is replayed: at least one pair, and not all.
    """

    def __init__(self, own: Store, replayed: Store, share: float):
        self.folder, self._files = own.folder, own._files
        self.info = replace(own.info, max_text=max(own.info.max_text, replayed.info.max_text))
        self._own, self._replayed, self._share = own, replayed, share

    def batch(self, seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """Return a batch's rows; replayed ones lie evenly among the others, so that processes have as many."""
        num = min(batch_size - 1, max(1, round(self._share * batch_size)))
        is_replayed = np.zeros(batch_size, bool)
        is_replayed[np.arange(num) * batch_size // num] = True
        rows_B = np.empty(batch_size, np.int64)
        rows_B[~is_replayed] = batch_ids(seed, step, batch_size - num, len(self))
        rows_B[is_replayed] = len(self) + batch_ids(seed, step, num, len(self._replayed))
        return rows_B

    def texts_of(self, rows_B: NDArray[np.int64]) -> Texts:
        is_own_B = rows_B < len(self)
        own = self._own.texts_of(rows_B[is_own_B])
        other = self._replayed.texts_of(rows_B[~is_own_B] - len(self))
        here, there = np.flatnonzero(is_own_B), np.flatnonzero(~is_own_B)
        return Texts(
            np.concatenate([here[own.owner_P], there[other.owner_P]]),
            np.concatenate([own.text_P, other.text_P + self.info.texts]),
            np.concatenate([own.lang_P, other.lang_P]),
            np.concatenate([own.kind_P, other.kind_P]),
        )

    def image_ids(self, rows_B: NDArray[np.int64]) -> NDArray[np.int64]:
        is_own_B = rows_B < len(self)
        height, width = self.info.grid
        ids_BN = np.empty((len(rows_B), height * width), np.int64)
        ids_BN[is_own_B] = self._own.image_ids(rows_B[is_own_B])
        ids_BN[~is_own_B] = self._replayed.image_ids(rows_B[~is_own_B] - len(self))
        return ids_BN

    def spans_of(self, text_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        is_own_R = text_R < self.info.texts
        spans = np.empty((2, len(text_R)), np.int64)
        spans[:, is_own_R] = self._own.spans_of(text_R[is_own_R])
        others = self._replayed.spans_of(text_R[~is_own_R] - self.info.texts)
        spans[:, ~is_own_R] = np.stack(others) + self.info.tokens
        return spans[0], spans[1]

    def tokens_in(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        is_own = begins < self.info.tokens  # a text without tokens at the border has none in either
        ids_T = np.empty(int((ends - begins).sum()), np.int64)
        is_own_T = np.repeat(is_own, ends - begins)
        ids_T[is_own_T] = self._own.tokens_in(begins[is_own], ends[is_own])
        behind = self.info.tokens
        ids_T[~is_own_T] = self._replayed.tokens_in(
            begins[~is_own] - behind, ends[~is_own] - behind
        )
        return ids_T
