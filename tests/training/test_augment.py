"""How a training picture is moved about."""

from dataclasses import replace

import numpy as np
import pytest

from vilg.errors import SettingError
from vilg.training.augment import AS_THEY_ARE, AugmentConfig, augment, zoomed


def test_pictures_shift_down_and_right_independently() -> None:
    dotted = np.full((200, 16, 16, 3), 255, dtype=np.uint8)
    dotted[:, 8, 8] = 0
    settings = AugmentConfig(max_shift=2, flip=False)
    moved = augment(dotted, seed=0, step=3, ids=np.arange(200), config=settings)
    where = [tuple(np.argwhere(picture[..., 0] == 0)[0]) for picture in moved]
    assert set(where) == {(y, x) for y in range(6, 11) for x in range(6, 11)}


def test_half_of_the_pictures_are_mirrored_and_edges_are_white() -> None:
    halves = np.full((400, 16, 16, 3), 255, dtype=np.uint8)
    halves[:, :, :4] = 0
    settings = AugmentConfig(max_shift=0, flip=True)
    moved = augment(halves, seed=0, step=3, ids=np.arange(400), config=settings)
    num_mirrored = int((moved[:, 0, -1, 0] == 0).sum())
    assert 160 < num_mirrored < 240
    shifted = augment(halves * 0, 0, 3, np.arange(400), AugmentConfig(max_shift=4))
    assert set(np.unique(shifted)) == {0, 255}
    assert (shifted.reshape(400, -1).min(axis=1) == 0).all()


def test_a_picture_moves_alike_whatever_its_batch_is() -> None:
    random = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    ids, settings = np.arange(8) * 7, AugmentConfig()
    together = augment(random, 0, 5, ids, settings)
    alone = augment(random[3:4], 0, 5, ids[3:4], settings)
    assert np.array_equal(together[3], alone[0])
    assert not np.array_equal(together, augment(random, 0, 6, ids, settings))


def test_some_pictures_get_their_colours_permuted() -> None:
    picture = np.array([10, 20, 30], dtype=np.uint8)
    pictures = np.tile(picture, (600, 4, 4, 1))
    settings = AugmentConfig(max_shift=0, flip=False, recolour=0.4)
    moved = augment(pictures, seed=0, step=1, ids=np.arange(600), config=settings)
    orders = [tuple(found[0, 0].tolist()) for found in moved]
    assert orders.count((10, 20, 30)) / 600 == pytest.approx(0.6, abs=0.06)
    assert len({*orders}) == 6
    assert (moved == moved[:, :1, :1]).all()
    assert all(sorted(order) == [10, 20, 30] for order in orders)


def white_with_disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.full((64, 64, 3), 255, dtype=np.uint8)
    disc[x**2 + y**2 <= radius**2] = (0, 80, 160)
    return disc


@pytest.mark.parametrize("factor", [0.5, 1 / 1.25, 1.25, 2.0])
def test_zoom_changes_the_size_about_the_middle(factor: float) -> None:
    found = zoomed(white_with_disc(12), factor).astype(float)
    expected = white_with_disc(12 * factor).astype(float)
    # Resampling blurs the rim by two source pixels and rings; off it the pictures agree, colours too.
    y, x = np.mgrid[:64, :64] - 31.5
    off_the_rim = np.abs(np.hypot(y, x) - 12 * factor) > 2 * max(factor, 1)
    assert off_the_rim.mean() > 0.5
    assert np.abs(found - expected)[off_the_rim].max() <= 1
    # In balance: as much is found right of the middle as left, and below as above.
    ink = 255 - found[..., 0]
    assert (ink * (np.arange(64) - 31.5)).sum() / ink.sum() == pytest.approx(0, abs=0.05)
    assert (ink.T * (np.arange(64) - 31.5)).sum() / ink.sum() == pytest.approx(0, abs=0.05)


def test_no_zoom_is_the_picture_itself() -> None:
    random = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(zoomed(random, 1.0), random)
    assert np.array_equal(augment(random[None], 0, 0, np.arange(1), AS_THEY_ARE), random[None])


def test_sizes_are_drawn_from_smaller_to_larger_alike() -> None:
    discs = np.stack([white_with_disc(12)] * 300)
    settings = AugmentConfig(max_shift=0, flip=False, zoom=0.25)
    moved = augment(discs, seed=0, step=2, ids=np.arange(300), config=settings)
    areas = (255 - moved[..., 0].astype(float)).sum((1, 2)) / (255 - discs[0, ..., 0]).sum()
    factors = np.sqrt(areas)
    assert 0.78 < factors.min() < 0.82 and 1.22 < factors.max() < 1.27
    assert np.median(factors) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_shift": -1}, "max_shift"),
        ({"recolour": 1.5}, "recolour"),
        ({"zoom": -0.1}, "zoom"),
        ({"noise": -1}, "noise"),
        ({"noise": 256}, "noise"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        AugmentConfig(**settings)


def test_noise_changes_every_value_by_up_to_an_amount_of_the_picture() -> None:
    grey = np.full((500, 16, 16, 3), 100, dtype=np.uint8)
    settings = replace(AS_THEY_ARE, noise=6)
    change = augment(grey, 0, 1, np.arange(500), settings).astype(float) - 100
    largest = np.abs(change).max(axis=(1, 2, 3))
    shares = [(largest == n).mean() for n in range(8)]
    assert shares == pytest.approx([1 / 12, *[1 / 6] * 5, 1 / 12, 0], abs=0.05)
    strong = change[largest == 6]
    assert strong.mean() == pytest.approx(0, abs=0.1)
    assert strong.std() == pytest.approx(6 / 3**0.5, abs=0.3)
    # No two values, channels or pictures change together.
    values = strong.reshape(len(strong), -1)[:, [0, 1, 2, 3, 47, 48, 96, 97, 767]]
    assert np.abs(np.corrcoef(values, rowvar=False) - np.eye(9)).max() < 0.6
    assert np.abs(np.corrcoef(strong.reshape(len(strong), -1)) - np.eye(len(strong))).max() < 0.2


def test_noise_stays_within_bytes_and_moves_nothing() -> None:
    random = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    ids, settings = np.arange(8) * 7, AugmentConfig(zoom=0.2, recolour=0.5)
    plain = augment(random, 0, 5, ids, settings).astype(int)
    noisy = augment(random, 0, 5, ids, replace(settings, noise=10))
    assert 4 < np.abs(noisy - plain).max() <= 10
    assert np.array_equal(
        augment(random[3:4], 0, 5, ids[3:4], replace(settings, noise=10))[0], noisy[3]
    )
