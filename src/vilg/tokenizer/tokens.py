"""Many pictures' ids at once: by the encoder, or refined.

Shape letters: S pictures, Y X pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilg.data.pairs import Pair
from vilg.data.pictures import load_pictures
from vilg.images import batch_of, to_pixels
from vilg.progress import in_batches
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.refine import refining_encoder


def encoded_tokens(tokenizer: ImageTokenizer, pairs: Sequence[Pair]) -> NDArray[np.uint16]:
    """Return every picture's ids, one raster row a pair."""
    rows = []
    for part in in_batches(len(pairs), batch_of(tokenizer.config.image_size), "tokens"):
        pictures = load_pictures(pairs[part], tokenizer.config.image_size)
        rows.append(_rows(tokenizer.encode(to_pixels(pictures, tokenizer.device))))
    return np.concatenate(rows)


def refined_tokens(
    tokenizer: ImageTokenizer, pictures_SYX3: NDArray[np.uint8], num_steps: int, bf16: bool
) -> NDArray[np.uint16]:
    """Return every picture's ids, refined in so many steps, one raster row a picture."""
    encode, rows = refining_encoder(tokenizer, num_steps, bf16=bf16), []
    for part in in_batches(len(pictures_SYX3), batch_of(pictures_SYX3.shape[1]), "tokens refined"):
        rows.append(_rows(encode(to_pixels(pictures_SYX3[part], tokenizer.device))))
    return np.concatenate(rows)


def _rows(ids_BHW: Tensor) -> NDArray[np.uint16]:
    """Return ids as raster rows on the host."""
    return ids_BHW.flatten(1).cpu().numpy().astype(np.uint16)
