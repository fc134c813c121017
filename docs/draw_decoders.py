r"""Draw unseen concepts as several decoders of the same tokens paint them, and say how sharp each is.

    .venv/bin/python docs/draw_decoders.py OUT.png FOLDER...      model folders of one image tokenizer

Columns are pictures; rows are the originals, then each folder's reconstructions. Earlier decoders of the shipped
tokenizer are in the history, as at b7ae08d (before the adversarial term) and 4f9ffbe (after it):

    for at in b7ae08d 4f9ffbe; do
        mkdir -p runs/$at && git archive $at src/vilg/assets/emoji-tokenizer | tar x -C runs/$at
    done
    .venv/bin/python docs/draw_decoders.py docs/images/tokenizer-decoders.png \
        runs/{b7ae08d,4f9ffbe}/src/vilg/assets/emoji-tokenizer src/vilg/assets/emoji-tokenizer

Sharpness is the energy of the differences between neighbouring pixels, over that of the originals.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilg.data.pictures import load_pictures
from vilg.images import contact_sheet, to_arrays, to_pictures, to_pixels
from vilg.model.folder import load_model
from vilg.shipped.recipes import EMOJI
from vilg.shipped.reconstruction import psnr_db
from vilg.shipped.samples import Settings, read_splits

SHOWN = 14


def edge_energy(arrays_SYX3: NDArray[np.uint8]) -> float:
    pixels = arrays_SYX3.astype(np.float64)
    return float(sum(np.square(np.diff(pixels, axis=axis)).mean() for axis in (1, 2)))


def main(out: Path, folders: list[Path]) -> None:
    tokenizers = [load_model(folder).image_tokenizer for folder in folders]
    if len({tokenizer.fingerprint() for tokenizer in tokenizers}) != 1:
        sys.exit("these folders have different tokens: name decoders of one tokenizer")
    samples = read_splits(EMOJI, Settings()).chosen["unseen_concept"]
    originals = load_pictures(samples, tokenizers[0].config.image_size)
    ids = tokenizers[0].encode(to_pixels(originals))
    rows = [originals]
    for folder, tokenizer in zip(folders, tokenizers, strict=True):
        rows.append(to_arrays(tokenizer.decode(ids)))
        sharpness = edge_energy(rows[-1]) / edge_energy(originals)
        psnr = psnr_db(originals, rows[-1]).mean()
        print(f"{folder}: {psnr:.2f} dB, sharpness {sharpness:.1%}")
    contact_sheet([to_pictures(to_pixels(row[:SHOWN])) for row in rows], scale=2).save(out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
