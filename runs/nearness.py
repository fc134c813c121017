"""How near a picture must be to its original for the judge to find it, and what ours are taken for.

    .venv/bin/python runs/nearness.py [TOKENIZER]      some minutes

PSNR and retrieval, as `vilg evaluate tokenizer` measures them, of the unseen concepts: reconstructed, mixed
pixel by pixel with their originals, and originals made worse by hand. Ground of docs/lab/decisions/0014.

Shape letters: S pictures, Y X pixels, F features.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilg.data.pairs import Pair
from vilg.data.pictures import load_pictures
from vilg.evaluation.judge import load_judge
from vilg.evaluation.likeness import finds_original, unit
from vilg.images import to_arrays, to_pixels
from vilg.model.folder import find_model, load_model
from vilg.progress import in_batches
from vilg.shipped.emoji import EMOJI
from vilg.shipped.reconstruction import psnr_db
from vilg.shipped.samples import Settings, choose, read_splits
from vilg.tokenizer.image_tokenizer import ImageTokenizer

Pictures = NDArray[np.uint8]  # arrays_SYX3
Damage = Callable[[Pictures, Pictures], NDArray[np.floating]]  # of originals and reconstructions


def mixed(share: float) -> Damage:
    return lambda originals, rebuilt: share * originals + (1 - share) * rebuilt


def shrunk(side: int) -> Damage:
    def through(array_YX3: Pictures) -> NDArray[np.float64]:
        picture = Image.fromarray(array_YX3)
        small = picture.resize((side, side), Image.Resampling.BOX)
        return np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC), dtype=np.float64)

    return lambda originals, _: np.stack([through(array) for array in originals])


def noisy(levels: float) -> Damage:
    def damage(originals: Pictures, _: Pictures) -> NDArray[np.float64]:
        return originals + np.random.default_rng(0).normal(0, levels, originals.shape)

    return damage


DAMAGES: dict[str, Damage] = {
    "reconstructions": mixed(0.0),
    **{f"{share:.0%} of the original": mixed(share) for share in (0.1, 0.2, 0.3, 0.4, 0.5)},
    "original at 24 x 24": shrunk(24),
    "original at 32 x 32": shrunk(32),
    "original with noise of 13 levels": noisy(13),
}


def rebuild(tokenizer: ImageTokenizer, originals_SYX3: Pictures) -> Pictures:
    parts = in_batches(len(originals_SYX3), 50, "pictures through the codes")
    tokens = (tokenizer.encode(to_pixels(originals_SYX3[part])) for part in parts)
    return np.concatenate([to_arrays(tokenizer.decode(ids_BHW)) for ids_BHW in tokens])


def taken_for(made_SF: NDArray, original_SF: NDArray, samples: list[Pair]) -> dict[str, int]:
    """Count what those that are not found are nearest to."""
    cosine_SS = unit(made_SF) @ unit(original_SF).T
    counts = {"the concept in another style": 0, "another concept in the style": 0, "neither": 0}
    for i in np.flatnonzero(~finds_original(made_SF, original_SF)):
        cosine_SS[i, i] = -np.inf
        own, other = samples[i], samples[int(cosine_SS[i].argmax())]
        if own.tags["concept"] == other.tags["concept"]:
            counts["the concept in another style"] += 1
        elif own.tags["style"] == other.tags["style"]:
            counts["another concept in the style"] += 1
        else:
            counts["neither"] += 1
    return counts


def like_the_unseen(train: list[Pair], count: int) -> list[Pair]:
    """Choose training pictures that are as hard to tell apart: as many, and concepts in most styles."""
    by_concept: dict[str, list[Pair]] = {}
    for sample in train:
        by_concept.setdefault(sample.tags["concept"], []).append(sample)
    whole = [members for members in by_concept.values() if len(members) >= 3]
    return [sample for members in choose(whole, None, seed=0) for sample in members][:count]


def main(folder: str) -> None:
    tokenizer, judge = load_model(find_model(folder)).image_tokenizer, load_judge()
    splits = read_splits(EMOJI, Settings())
    samples = splits.chosen["unseen_concept"]
    originals_SYX3 = load_pictures(samples, tokenizer.config.image_size)
    rebuilt_SYX3 = rebuild(tokenizer, originals_SYX3)
    original_SF = judge.features(originals_SYX3, "originals judged")
    judged: dict[str, NDArray[np.float64]] = {}
    for name, damage in DAMAGES.items():
        worse_SYX3 = damage(originals_SYX3, rebuilt_SYX3).round().clip(0, 255).astype(np.uint8)
        judged[name] = worse_SF = judge.features(worse_SYX3, f"judged, {name}")
        found, psnr = finds_original(worse_SF, original_SF), psnr_db(originals_SYX3, worse_SYX3)
        print(f"{name}: {psnr.mean():.2f} dB, {found.mean():.1%} found")
    print("not found, but taken for:", taken_for(judged["reconstructions"], original_SF, samples))

    seen = like_the_unseen(splits.whole["train"], len(samples))
    seen_SYX3 = load_pictures(seen, tokenizer.config.image_size)
    seen_SF = judge.features(seen_SYX3, "training pictures judged")
    made_SF = judge.features(rebuild(tokenizer, seen_SYX3), "their reconstructions judged")
    print(f"{len(seen_SF)} training pictures: {finds_original(made_SF, seen_SF).mean():.1%} found")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "src/vilg/assets/emoji-tokenizer")
