"""Two stores as one: a batch has its share of both, and each row is what it is in its own store."""

import numpy as np

from tests.training.conftest import toy_pairs, toy_store
from vilg.data.batches import choose_captions, padded
from vilg.data.mixture import Mixture


def test_a_batch_has_its_share_and_rows_stay_what_they_are() -> None:
    pairs = toy_pairs(12)
    own, other = toy_store(pairs[:5]), toy_store(pairs[5:])
    mixture = Mixture(own, other, 0.25)
    assert len(mixture) == 5
    seen = set[int]()
    for step in range(20):
        rows_B = mixture.batch(0, step, 8)
        replayed = rows_B >= 5
        assert np.flatnonzero(replayed).tolist() == [0, 4]  # one for each of two processes
        seen |= {*rows_B.tolist()}
        expected = np.stack([pairs[row].image_ids for row in rows_B])
        assert (mixture.image_ids(rows_B) == expected).all()
        text_R, lang_R = choose_captions(mixture, rows_B, 0, step, 1)
        ids_RM, valid_RM = padded(mixture, text_R)
        for row, lang, ids_M, valid_M in zip(rows_B, lang_R, ids_RM, valid_RM, strict=True):
            assert ids_M[valid_M].tolist() == pairs[row].captions[("zh", "en")[lang]]
    assert seen == {*range(12)}


def test_a_share_is_never_none_nor_all() -> None:
    own, other = toy_store(toy_pairs(3)), toy_store(toy_pairs(4))
    for share, num in ((0.01, 1), (0.99, 3)):
        assert (Mixture(own, other, share).batch(0, 0, 4) >= 3).sum() == num
    assert own.batch(0, 0, 3).sum() == 3
