"""Pictures to tokens and what was drawn to pictures, one at a time.

Convolutions may round differently in a batch, and a picture must not depend on the others.
"""

from collections.abc import Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from vilg.device import moved
from vilg.errors import require
from vilg.images import Picture, open_picture, square, to_array, to_pictures, to_pixels
from vilg.model.folder import Model
from vilg.model.segments import Grid
from vilg.sampling.candidates import WatchBatch
from vilg.sampling.images import Drawn, Kept
from vilg.sampling.settings import Preview, Progress
from vilg.tokenizer.image_tokenizer import ImageTokenizer


def encode(tokenizer: ImageTokenizer, images: Sequence[Picture]) -> Tensor:
    """Return image_ids_BN of pictures, centre-cropped and resized to the tokenizer's size."""
    is_many = isinstance(images, Iterable) and not isinstance(images, Picture)
    require(is_many, "pictures are encoded from a list of them, also a single one")
    size, side = tokenizer.config.image_size, tokenizer.config.grid_size
    arrays = [to_array(square(open_picture(image), size)) for image in images]
    device = tokenizer.device
    ids_1N = [tokenizer.encode(to_pixels(array[None], device)).flatten(1) for array in arrays]
    return torch.cat([torch.empty(0, side**2, dtype=torch.int64, device=device), *ids_1N])


def decode(tokenizer: ImageTokenizer, image_ids_BN: Tensor) -> list[Image.Image]:
    """Return the pictures of token rows."""
    side, num_codes = tokenizer.config.grid_size, tokenizer.config.num_codes
    message = f"image tokens are whole numbers below {num_codes}, {side**2} in a row of a tensor"
    require(isinstance(image_ids_BN, Tensor) and image_ids_BN.shape[1:] == (side**2,), message)
    is_whole = torch.can_cast(image_ids_BN.dtype, torch.int64) and image_ids_BN.dtype != torch.bool
    ids_BN = image_ids_BN.long()
    require(is_whole and bool(((ids_BN >= 0) & (ids_BN < num_codes)).all().cpu()), message)
    ids_B1HW = moved(ids_BN, tokenizer.device).reshape(-1, 1, side, side)
    return [to_pictures(tokenizer.decode(ids_1HW))[0] for ids_1HW in ids_B1HW]


@torch.inference_mode()
def pictures_of(model: Model, drawn: Drawn) -> list[Image.Image]:
    """Return the pictures of what was drawn: by the reconstructor where states were kept."""
    tokenizer = model.image_tokenizer
    if drawn.states_BNC is None:
        return decode(tokenizer, drawn.image_ids_BN)
    assert model.reconstructor is not None
    grid = Grid(tokenizer.config.grid_size, tokenizer.config.grid_size)
    raws = [model.reconstructor(states_NC[None], grid) for states_NC in drawn.states_BNC]
    return [to_pictures(tokenizer.to_image(raw))[0] for raw in raws]


def watching(
    tokenizer: ImageTokenizer,
    num: int,
    kept: Kept | None,
    progress: Progress | None,
    preview: Preview | None,
) -> WatchBatch:
    """Return what tells how far `num` images are."""
    side = tokenizer.config.grid_size

    def watch(num_finished: int, image_ids_Bk: Tensor) -> None:
        B, k = image_ids_Bk.shape
        if progress:
            progress(side**2 * num_finished + B * k, side**2 * num)
        if preview and k % side == 0:
            below_BN = None
            if kept:  # an edited picture stands as it was below what is drawn
                candidates = num // len(kept.image_ids_GN)
                own_B = (
                    num_finished + torch.arange(B, device=kept.image_ids_GN.device)
                ) // candidates
                below_BN = moved(kept.image_ids_GN[own_B], image_ids_Bk.device)
            preview(_unfinished(tokenizer, image_ids_Bk, below_BN))

    return watch


def _unfinished(
    tokenizer: ImageTokenizer, image_ids_Bk: Tensor, below_BN: Tensor | None
) -> list[Image.Image]:
    """Return the pictures of the first rows of tokens; below white, or what other tokens have there."""
    side, size = tokenizer.config.grid_size, tokenizer.config.image_size
    k = image_ids_Bk.shape[1]
    if below_BN is not None:
        return decode(tokenizer, torch.cat([image_ids_Bk, below_BN[:, k:]], dim=1))
    # Some code has to stand below; the last row's make the least of an edge.
    missing = image_ids_Bk[:, -side:].repeat(1, side - k // side)
    pictures = decode(tokenizer, torch.cat([image_ids_Bk, missing], dim=1))
    for picture in pictures:
        picture.paste("white", (0, size * k // side**2, size, size))
    return pictures
