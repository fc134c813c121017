"""What the image tokenizer keeps of a picture, and how much of its codebook it uses.

PSNR of a picture is 10 log10(1 / MSE) dB, with MSE the mean over pixels and channels of the squared
difference of RGB bytes scaled to [0, 1]; the reconstruction is rounded to bytes first. A split's PSNR
is the mean over its pictures of theirs, not the PSNR of the mean error. Usage is the share of codes
that occur in the split at all, perplexity the exponential of the entropy of their frequencies.

Shape letters: B batch, S samples, N image tokens, Y X pixels, K codes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilg.data.shards import Sample
from vilg.evaluation.samples import TRAIN, Splits, positions_by_style
from vilg.images import contact_sheet, to_arrays, to_pictures, to_pixels
from vilg.progress import in_batches
from vilg.tokenizer.vqgan import VQGAN
from vilg.training.run import load_pictures

# Identical pictures have infinite PSNR: they count as this, and so does anything above it. One byte
# off by one in 64x64 gives 89 dB.
MAX_PSNR_DB = 100.0

_BATCH = 50
_SHOWN_A_STYLE = 4


def psnr_db(a_BYX3: NDArray[np.uint8], b_BYX3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the PSNR of each picture against its partner, at most `MAX_PSNR_DB`."""
    difference = (a_BYX3.astype(np.float64) - b_BYX3) / 255
    mse_B = np.square(difference).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(mse_B, 10 ** (-MAX_PSNR_DB / 10)))


def code_use(ids: NDArray[np.int64], num_codes: int) -> dict[str, float]:
    """Return usage (share of the codes that occur) and perplexity (in codes) of token ids."""
    counts_K = np.bincount(ids.ravel(), minlength=num_codes)
    share = counts_K[counts_K > 0] / counts_K.sum()
    return {
        "usage": float(np.count_nonzero(counts_K) / num_codes),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }


def score_tokenizer(vqgan: VQGAN, splits: Splits) -> dict[str, Any]:
    """Return num, psnr_db, usage and perplexity of each split, over all and by style."""
    return {name: _score_split(vqgan, name, samples) for name, samples in splits.chosen.items()}


def _score_split(vqgan: VQGAN, name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    psnr: list[NDArray[np.float64]] = []
    ids: list[NDArray[np.int64]] = []
    for part in in_batches(len(samples), _BATCH, f"pictures through the codes, {name}"):
        arrays_BYX3 = load_pictures(samples[part], vqgan.config.image_size)
        ids_BHW = vqgan.encode(to_pixels(arrays_BYX3))
        psnr.append(psnr_db(arrays_BYX3, to_arrays(vqgan.decode(ids_BHW))))
        ids.append(ids_BHW.flatten(1).numpy())
    psnr_S, ids_SN = np.concatenate(psnr), np.concatenate(ids)

    def scores(chosen: Sequence[int]) -> dict[str, float]:
        rows = list(chosen)
        return {
            "num": len(rows),
            "psnr_db": float(psnr_S[rows].mean()),
            **code_use(ids_SN[rows], vqgan.config.num_codes),
        }

    by_style = {style: scores(rows) for style, rows in positions_by_style(samples).items()}
    return {"all": scores(range(len(samples))), "by_style": by_style}


def reconstruction_sheet(vqgan: VQGAN, splits: Splits) -> Image.Image:
    """Return pictures of unseen concepts over their reconstructions, two rows a style.

    Concepts differ from style to style while there are enough. A data set without unseen concepts
    shows training pictures.
    """
    samples = splits.chosen.get("unseen_concept") or splits.chosen[TRAIN]
    shown: set[str] = set()
    rows: list[list[Image.Image]] = []
    for positions in positions_by_style(samples).values():
        # Stable: among the new concepts, and among the others, the order stays.
        fresh_first = sorted(positions, key=lambda i: samples[i].concept in shown)
        chosen = [samples[i] for i in fresh_first[:_SHOWN_A_STYLE]]
        shown |= {sample.concept for sample in chosen}
        pixels = to_pixels(load_pictures(chosen, vqgan.config.image_size))
        rows += [to_pictures(pixels), to_pictures(vqgan.decode(vqgan.encode(pixels)))]
    return contact_sheet(rows, scale=2)
