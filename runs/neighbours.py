"""What can be known of an unseen picture without learning: the names of its nearest training pictures.

    .venv/bin/python runs/neighbours.py      half a minute

For every unseen combination of the groups that `emoji_cpu` trains on: is its name that of the nearest
training picture, or of one of the five nearest, by cosine of the tokens' code vectors, or of pixels shrunk to
8 x 8 (white is 0)? A ground to hold captions of unseen combinations against: docs/log.md.

Shape letters: S pictures, F features, Y X pixels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vilg.data.shards import load_samples
from vilg.evaluation.likeness import unit
from vilg.images import to_pixels
from vilg.model.folder import find_model, load_model
from vilg.recipes import EMOJI, EMOJI_GROUPS
from vilg.training.inputs import load_pictures

SIZE, COARSE = 64, 8


def code_vectors(pictures_SYX3: NDArray[np.uint8]) -> NDArray[np.float64]:
    tokenizer = load_model(find_model("src/vilg/assets/emoji-tokenizer")).image_tokenizer
    parts = [
        tokenizer.quantizer.lookup(tokenizer.encode(to_pixels(pictures_SYX3[i : i + 50])))
        for i in range(0, len(pictures_SYX3), 50)
    ]
    return np.concatenate([part.flatten(1).numpy() for part in parts]).astype(np.float64)


def coarse_pixels(pictures_SYX3: NDArray[np.uint8]) -> NDArray[np.float64]:
    side = SIZE // COARSE
    blocks = pictures_SYX3.reshape(len(pictures_SYX3), COARSE, side, COARSE, side, 3)
    return 1 - blocks.mean(axis=(2, 4)).reshape(len(pictures_SYX3), -1) / 255


def main() -> None:
    splits = {
        name: load_samples(EMOJI, name, EMOJI_GROUPS) for name in ("train", "unseen_combination")
    }
    pictures = {name: load_pictures(samples, SIZE) for name, samples in splits.items()}
    names = {name: np.array([s.names["en"] for s in samples]) for name, samples in splits.items()}
    train, unseen = names["train"], names["unseen_combination"]
    print(f"{len(unseen)} unseen combinations, {len(train)} pictures of {len(set(train))} names")
    features: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float64]]] = {
        "code vectors": code_vectors,
        "8 x 8 pixels": coarse_pixels,
    }
    for what, of in features.items():
        cosine_SS = unit(of(pictures["unseen_combination"])) @ unit(of(pictures["train"])).T
        right = train[np.argsort(-cosine_SS, axis=1)[:, :5]] == unseen[:, None]
        print(f"{what}: nearest {right[:, 0].mean():.1%}, in five {right.any(axis=1).mean():.1%}")


if __name__ == "__main__":
    main()
