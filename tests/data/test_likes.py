"""Hashes of pictures whose gradients are plain, and near ones against comparing all with all."""

import numpy as np
import pytest
from PIL import Image

from vilg.data.likes import MOST_BITS, looks_of, near_an_earlier
from vilg.randomness import bits, integers


def ramp(rising: bool) -> Image.Image:
    levels = np.tile(np.arange(0, 252, 28, dtype=np.uint8), (8, 1))
    return Image.fromarray(levels if rising else levels[:, ::-1])


def test_each_bit_says_where_it_grows_lighter() -> None:
    assert looks_of(ramp(rising=True)) == 2**64 - 1
    assert looks_of(ramp(rising=False)) == 0
    assert looks_of(Image.new("RGB", (50, 20), "red")) == 0
    upper = np.asarray(ramp(rising=False)).copy()
    upper[0] = np.asarray(ramp(rising=True))[0]
    assert looks_of(Image.fromarray(upper)) == 0xFF << 56  # the first byte is the first row


def test_size_and_brightness_change_little() -> None:
    noise = integers(0, "noise", 256, np.arange(18 * 16)).astype(np.uint8).reshape(16, 18)
    picture = Image.fromarray(noise).resize((180, 160), Image.Resampling.BICUBIC)
    darker = picture.point([level // 2 + 20 for level in range(256)])
    for other in (picture.resize((90, 80), Image.Resampling.LANCZOS), darker):
        assert (looks_of(picture) ^ looks_of(other)).bit_count() <= 3
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    assert (looks_of(picture) ^ looks_of(turned)).bit_count() > 10


@pytest.mark.parametrize("most", range(MOST_BITS + 1))
def test_near_ones_are_those_that_comparing_all_with_all_finds(most: int) -> None:
    # Families of one hash in which up to 9 bits were turned, in a shuffled order.
    count = 400
    hashes = bits(1, "families", integers(1, "of", 40, np.arange(count)))
    turned = integers(1, "how many", 10, np.arange(count))
    for row in range(count):
        for bit in integers(1, "which", 64, row, np.arange(turned[row])):
            hashes[row] ^= np.uint64(1) << np.uint64(bit)
    naive = [
        any((int(hashes[i]) ^ int(hashes[j])).bit_count() <= most for j in range(i))
        for i in range(count)
    ]
    assert 0 < sum(naive) < count
    assert near_an_earlier(hashes, most).tolist() == naive


def test_of_nothing_nothing_is_near() -> None:
    assert near_an_earlier(np.empty(0, np.uint64), 3).tolist() == []
