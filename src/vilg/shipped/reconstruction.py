"""What the image tokenizer keeps of a picture, and how much of its codebook it uses.

PSNR of a picture is 10 log10(1 / MSE) dB, with MSE the mean over pixels and channels of the squared
difference of RGB bytes scaled to [0, 1]; the reconstruction is rounded to bytes first. A split's PSNR
is the mean over its pictures of theirs, not the PSNR of the mean error. Usage is the share of codes
that occur in the split at all, perplexity the exponential of the entropy of their frequencies.

SSIM (Wang et al. 2004) is that of torchmetrics, with the authors' constants: a Gaussian window of 11
pixels and 1.5 of deviation, K1 = 0.01, K2 = 0.03, bytes of range 255; taken for each colour channel,
windows reflected at the edge, and averaged over channels and places.

Two scores are by the judge (`judge.py`). Retrieval: the share of reconstructions whose own original
is nearer, by the cosine of their features, than all other originals measured in the split, whatever
their style; so it falls as a split grows, and compares only over equally many pictures. Kernel
distance: between the features of the reconstructions and of the originals (`likeness.py`).

Tokens are the encoder's, or refined ones (`tokenizer/refine.py`). Refining lessens the errors of pixels and the
distance by EfficientNet-Lite0 of just the pictures that are measured: such a PSNR says what the codes can hold,
and does not compare with an encoder's. The judge it never sees.

Shape letters: B batch, S samples, N image tokens, Y X pixels, K codes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vilg.data.pairs import Pair
from vilg.data.pictures import load_pictures
from vilg.evaluation.extra import import_extra
from vilg.evaluation.judge import Judge
from vilg.evaluation.likeness import finds_original, kernel_distance
from vilg.images import batch_of, contact_sheet, to_arrays, to_pictures, to_pixels
from vilg.progress import in_batches
from vilg.shipped.samples import Splits, positions_by_style
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.refine import Encoder

# Identical pictures have infinite PSNR: they count as this, and so does anything above it. One byte
# off by one in 64x64 gives 89 dB.
MAX_PSNR_DB = 100.0

_SHOWN_A_STYLE = 4
# Pictures between two looks at the clock: refined, they take some seconds.
_BATCH = 10


def psnr_db(a_BYX3: NDArray[np.uint8], b_BYX3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the PSNR of each picture against its partner, at most `MAX_PSNR_DB`."""
    difference = (a_BYX3.astype(np.float64) - b_BYX3) / 255
    mse_B = np.square(difference).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(mse_B, 10 ** (-MAX_PSNR_DB / 10)))


def ssim(a_BYX3: NDArray[np.uint8], b_BYX3: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the structural similarity of each picture with its partner, at most 1.

    Raises:
        MissingExtra: torchmetrics is not installed.
    """
    metrics = import_extra("torchmetrics.functional.image")
    # In single precision a white ground makes it some 2e-4 too low; double takes 30 times as long.
    a_B3YX, b_B3YX = (
        torch.from_numpy(arrays).permute(0, 3, 1, 2).float() for arrays in (a_BYX3, b_BYX3)
    )
    ssim_B = metrics.structural_similarity_index_measure(
        a_B3YX, b_B3YX, data_range=255.0, reduction="none"
    )
    return ssim_B.double().numpy()


def code_use(ids: NDArray[np.int64], num_codes: int) -> dict[str, float]:
    """Return usage (share of the codes that occur) and perplexity (in codes) of token ids."""
    counts_K = np.bincount(ids.ravel(), minlength=num_codes)
    share = counts_K[counts_K > 0] / counts_K.sum()
    return {
        "usage": float(np.count_nonzero(counts_K) / num_codes),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }


def score_tokenizer(
    tokenizer: ImageTokenizer, encode: Encoder, judge: Judge, splits: Splits, subset_seed: int
) -> dict[str, Any]:
    """Return by split the scores of the reconstructions and the use of codes, over all and by style.

    Args:
        encode: the tokenizer's own, or a better one for the same codes.
        subset_seed: of the subsets that give kernel distances their standard error.
    """
    return {
        name: _score_split(tokenizer, encode, judge, name, samples, subset_seed)
        for name, samples in splits.chosen.items()
    }


def _score_split(
    tokenizer: ImageTokenizer,
    encode: Encoder,
    judge: Judge,
    name: str,
    samples: Sequence[Pair],
    subset_seed: int,
) -> dict[str, Any]:
    originals: list[NDArray[np.uint8]] = []
    rebuilt: list[NDArray[np.uint8]] = []
    ids: list[NDArray[np.int64]] = []
    psnr: list[NDArray[np.float64]] = []
    similarity: list[NDArray[np.float64]] = []
    batch = min(_BATCH, batch_of(tokenizer.config.image_size))
    for part in in_batches(len(samples), batch, f"pictures through the codes, {name}"):
        arrays_BYX3 = load_pictures(samples[part], tokenizer.config.image_size)
        ids_BHW = encode(to_pixels(arrays_BYX3, tokenizer.device))
        originals.append(arrays_BYX3)
        rebuilt.append(to_arrays(tokenizer.decode(ids_BHW)))
        ids.append(ids_BHW.flatten(1).cpu().numpy())
        psnr.append(psnr_db(arrays_BYX3, rebuilt[-1]))
        similarity.append(ssim(arrays_BYX3, rebuilt[-1]))
    ids_SN, psnr_S, ssim_S = np.concatenate(ids), np.concatenate(psnr), np.concatenate(similarity)
    original_SF = judge.features(np.concatenate(originals), f"originals judged, {name}")
    rebuilt_SF = judge.features(np.concatenate(rebuilt), f"reconstructions judged, {name}")
    found_S = finds_original(rebuilt_SF, original_SF)

    def scores(chosen: Sequence[int]) -> dict[str, Any]:
        rows = list(chosen)
        return {
            "num": len(rows),
            "psnr_db": float(psnr_S[rows].mean()),
            "ssim": float(ssim_S[rows].mean()),
            "retrieval_top1": float(found_S[rows].mean()),
            "kernel_distance": kernel_distance(rebuilt_SF[rows], original_SF[rows], subset_seed),
            **code_use(ids_SN[rows], tokenizer.config.num_codes),
        }

    by_style = {style: scores(rows) for style, rows in positions_by_style(samples).items()}
    return {"all": scores(range(len(samples))), "by_style": by_style}


def reconstruction_sheet(tokenizer: ImageTokenizer, encode: Encoder, splits: Splits) -> Image.Image:
    """Return pictures of unseen concepts over their reconstructions, two rows a style.

    Concepts differ from style to style while there are enough. Where unseen concepts are not measured, the
    first split's pictures are shown.
    """
    samples = splits.chosen.get("unseen_concept") or next(iter(splits.chosen.values()))
    shown: set[str] = set()
    rows: list[list[Image.Image]] = []
    by_style = list(positions_by_style(samples).values())
    for part in in_batches(len(by_style), 1, "styles on the sheet"):
        # Stable: among the new concepts, and among the others, the order stays.
        fresh_first = sorted(
            by_style[part.start], key=lambda i: samples[i].tags["concept"] in shown
        )
        chosen = [samples[i] for i in fresh_first[:_SHOWN_A_STYLE]]
        shown |= {sample.tags["concept"] for sample in chosen}
        arrays_BYX3 = load_pictures(chosen, tokenizer.config.image_size)
        pixels = to_pixels(arrays_BYX3, tokenizer.device)
        rows += [to_pictures(pixels), to_pictures(tokenizer.decode(encode(pixels)))]
    return contact_sheet(rows, scale=2)
