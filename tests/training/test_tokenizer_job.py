"""How a training picture is moved about."""

import numpy as np

from vilg.training.tokenizer_job import TokenizerLossConfig, augment


def test_pictures_shift_down_and_right_independently() -> None:
    dotted = np.full((200, 16, 16, 3), 255, dtype=np.uint8)
    dotted[:, 8, 8] = 0
    settings = TokenizerLossConfig(max_shift=2, flip=False)
    moved = augment(dotted, seed=0, step=3, ids=np.arange(200), config=settings)
    where = [tuple(np.argwhere(picture[..., 0] == 0)[0]) for picture in moved]
    assert set(where) == {(y, x) for y in range(6, 11) for x in range(6, 11)}


def test_half_of_the_pictures_are_mirrored_and_edges_are_white() -> None:
    halves = np.full((400, 16, 16, 3), 255, dtype=np.uint8)
    halves[:, :, :4] = 0
    settings = TokenizerLossConfig(max_shift=0, flip=True)
    moved = augment(halves, seed=0, step=3, ids=np.arange(400), config=settings)
    num_mirrored = int((moved[:, 0, -1, 0] == 0).sum())
    assert 160 < num_mirrored < 240
    shifted = augment(halves * 0, 0, 3, np.arange(400), TokenizerLossConfig(max_shift=4))
    assert set(np.unique(shifted)) == {0, 255}
    assert (shifted.reshape(400, -1).min(axis=1) == 0).all()


def test_a_picture_moves_alike_whatever_its_batch_is() -> None:
    random = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    ids, settings = np.arange(8) * 7, TokenizerLossConfig()
    together = augment(random, 0, 5, ids, settings)
    alone = augment(random[3:4], 0, 5, ids[3:4], settings)
    assert np.array_equal(together[3], alone[0])
    assert not np.array_equal(together, augment(random, 0, 6, ids, settings))
