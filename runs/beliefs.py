"""How sure is a model of its captions, of pictures that it knows and of pictures without sense?

.venv/bin/python runs/beliefs.py

Prints percentiles of the captions' mean log probability a token. The shipped model's `believed_from` (-0.05)
was chosen by them: of captions of training pictures 2% are under it, of pictures without sense 95%.
Pictures that scores are published of have no part in it. A minute on a CPU.
"""

import io

import numpy as np
from PIL import Image

from vilg import Vilg
from vilg.data.sources import load_pairs
from vilg.shipped.recipes import EMOJI, EMOJI_GROUPS
from vilg.text import LANGUAGES

PERCENTILES = (0, 2, 5, 50, 95, 98, 100)
CELL = 8  # pixels of a shuffled square


def shuffled(picture: bytes, rng: np.random.Generator) -> Image.Image:
    """Return a picture of 64 x 64 whose squares have changed places."""
    array = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    squares = array.reshape(8, CELL, 8, CELL, 3).transpose(0, 2, 1, 3, 4).reshape(64, CELL, CELL, 3)
    mixed = squares[rng.permutation(64)].reshape(8, 8, CELL, CELL, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(mixed.reshape(64, 64, 3))


def main() -> None:
    model, rng = Vilg.from_pretrained(), np.random.default_rng(0)
    known = load_pairs(EMOJI, "train", EMOJI_GROUPS)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    kinds = {
        "training pictures": [sample.picture() for sample in known[::60][:75]],
        "noise": [Image.fromarray(array) for array in noise],
        "their squares shuffled": [
            shuffled(sample.picture(), rng) for sample in known[7::150][:30]
        ],
    }
    print(f"{'percentile':24}", *(f"{p:7}" for p in PERCENTILES))
    for kind, pictures in kinds.items():
        found = [model.caption(p, lang)[0].log_prob for p in pictures for lang in LANGUAGES]
        print(f"{kind:24}", *(f"{x:7.2f}" for x in np.percentile(found, PERCENTILES)))


if __name__ == "__main__":
    main()
