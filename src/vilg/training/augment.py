"""How training pictures are moved about: functions of (seed, step, id)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilg.config import require
from vilg.randomness import integers, uniforms

_CHANNEL_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
_WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pictures are moved about.

    Attributes:
        max_shift: largest random shift in pixels, each way, white at the edge.
        flip: mirror half of them.
        recolour: share whose colour channels are permuted.
        zoom: largest random change of size, larger or smaller, about the middle: 0.25 draws factors
            from 1/1.25 to 1.25. White at the edge.
        noise: largest change of any value, in 1/255; how much of it is drawn for each picture. Nobody sees
            3, and yet an encoder chooses other codes: what is learnt by heart is the picture then, and not
            the numbers of one encoding (docs/lab/log.md).
    """

    max_shift: int = 4
    flip: bool = True
    recolour: float = 0.0
    zoom: float = 0.0
    noise: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.max_shift <= 256, "max_shift must be from 0 to 256")
        require(0 <= self.recolour <= 1, "recolour must be from 0 to 1")
        require(0 <= self.zoom <= 10, "zoom must be from 0 to 10")
        require(0 <= self.noise <= 255, "noise must be from 0 to 255")


AS_THEY_ARE = AugmentConfig(max_shift=0, flip=False)


def augment(
    arrays_BYX3: NDArray[np.uint8],
    seed: int,
    step: int,
    ids: NDArray[np.int64],
    config: AugmentConfig,
) -> NDArray[np.uint8]:
    """Zoom each picture, shift it on white ground, mirror, recolour, add noise.

    A function of (seed, step, id), and each of these apart: pictures without noise lie where those with
    noise do.
    """
    s, size = config.max_shift, arrays_BYX3.shape[1]
    if config.zoom:
        factors = (1 + config.zoom) ** (2 * uniforms(seed, "zoom", step, ids) - 1)
        pairs = zip(arrays_BYX3, factors, strict=True)
        arrays_BYX3 = np.stack([zoomed(array, factor) for array, factor in pairs])
    padded = np.pad(arrays_BYX3, ((0, 0), (s, s), (s, s), (0, 0)), constant_values=255)
    down, right = (integers(seed, f"shift-{axis}", 2 * s + 1, step, ids) for axis in "yx")
    mirrored = (uniforms(seed, "mirror", step, ids) < 0.5) & config.flip
    recoloured = uniforms(seed, "recolour", step, ids) < config.recolour
    orders = integers(seed, "channel order", len(_CHANNEL_ORDERS), step, ids)
    out = np.empty_like(arrays_BYX3)
    for i, (y, x) in enumerate(zip(down, right, strict=True)):
        crop = padded[i, y : y + size, x : x + size]
        crop = crop[:, ::-1] if mirrored[i] else crop
        out[i] = crop[..., _CHANNEL_ORDERS[orders[i]]] if recoloured[i] else crop
    return noisy(out, seed, step, ids, config.noise) if config.noise else out


def noisy(
    arrays_BYX3: NDArray[np.uint8], seed: int, step: int, ids: NDArray[np.int64], largest: int
) -> NDArray[np.uint8]:
    """Change every value evenly by up to an amount that is drawn for each picture."""
    ids_B111 = ids[:, None, None, None]
    places_1YX3 = np.arange(arrays_BYX3[0].size).reshape(1, *arrays_BYX3.shape[1:])
    amounts_B111 = largest * uniforms(seed, "noise", step, ids_B111)
    even_BYX3 = 2 * uniforms(seed, "noise of a value", step, ids_B111, places_1YX3) - 1
    return np.rint(arrays_BYX3 + amounts_B111 * even_BYX3).clip(0, 255).astype(np.uint8)


def zoomed(array_YX3: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Enlarge a square picture about its middle, or shrink it on white ground; the size stays."""
    size = array_YX3.shape[0]
    step, first = (
        1 / factor,
        (1 - 1 / factor) * size / 2,
    )  # from a place in the result to its source
    return np.asarray(
        Image.fromarray(array_YX3).transform(
            (size, size),
            Image.Transform.AFFINE,
            (step, 0, first, 0, step, first),
            Image.Resampling.BICUBIC,
            fillcolor=_WHITE,
        )
    )
