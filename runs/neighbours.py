"""What can be known of an unseen picture without learning: the names of its nearest training pictures.

    .venv/bin/python runs/neighbours.py      a minute

For every unseen combination of the groups that `emoji_cpu` trains on: is its name that of the nearest
training picture, or of one of the five nearest, by cosine of the tokens' code vectors, of pixels shrunk to
8 x 8 (white is 0), or of features of EfficientNet-Lite0, which has learnt from photographs? A ground to
hold captions of unseen combinations against: docs/lab/log.md. No model is scored by Lite0 here, so it may look.

Shape letters: S pictures, K codes, D code dimension; B C H W of a feature map.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vilg.data.pairs import Pair
from vilg.data.pictures import load_pictures
from vilg.data.sources import load_pairs
from vilg.evaluation.likeness import unit
from vilg.images import to_pixels
from vilg.model.folder import find_model, load_model
from vilg.progress import in_batches
from vilg.shipped.emoji import EMOJI
from vilg.shipped.recipes import EMOJI_GROUPS
from vilg.tokenizer.perceptual import Lite0Features
from vilg.tokenizer.tokens import encoded_tokens

SIZE, COARSE = 64, 8


def code_vectors(samples: Sequence[Pair]) -> NDArray[np.float64]:
    tokenizer = load_model(find_model("src/vilg/assets/emoji-tokenizer")).image_tokenizer
    codebook_KD = tokenizer.quantizer.codebook_KD.numpy().astype(np.float64)
    return codebook_KD[encoded_tokens(tokenizer, samples)].reshape(len(samples), -1)


def coarse_pixels(samples: Sequence[Pair]) -> NDArray[np.float64]:
    side = SIZE // COARSE
    blocks = load_pictures(samples, SIZE).reshape(-1, COARSE, side, COARSE, side, 3)
    return 1 - blocks.mean(axis=(2, 4)).reshape(len(samples), -1) / 255


@torch.inference_mode()
def lite0(samples: Sequence[Pair]) -> NDArray[np.float64]:
    features, rows = Lite0Features(), []
    for part in in_batches(len(samples), 50, "pictures seen by Lite0"):
        deepest_BCHW = features(to_pixels(load_pictures(samples[part], SIZE)))[-1]
        rows.append(deepest_BCHW.mean(dim=(2, 3)).double().numpy())
    return np.concatenate(rows)


def main() -> None:
    seen, unseen = (
        load_pairs(EMOJI, name, EMOJI_GROUPS) for name in ("train", "unseen_combination")
    )
    names, wanted = (np.array([s.tags["name.en"] for s in samples]) for samples in (seen, unseen))
    print(f"{len(unseen)} unseen combinations, {len(seen)} pictures of {len(set(names))} names")
    kinds = {"code vectors": code_vectors, "8 x 8 pixels": coarse_pixels, "Lite0": lite0}
    for what, features in kinds.items():
        cosine_SS = unit(features(unseen)) @ unit(features(seen)).T
        right = names[np.argsort(-cosine_SS, axis=1)[:, :5]] == wanted[:, None]
        print(f"{what}: nearest {right[:, 0].mean():.1%}, in five {right.any(axis=1).mean():.1%}")


if __name__ == "__main__":
    main()
