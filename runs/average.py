"""The decoders of two image tokenizers of one codebook, averaged weight by weight.

    .venv/bin/python runs/average.py FIRST SECOND SHARE OUT      SHARE of SECOND, from 0 to 1

A decoder that went on with a discriminator is sharper and errs more; between it and the one it began with,
weights have most of both (Wortsman et al., arXiv 2109.01903). Tokens and fingerprint stay.
"""

import sys
from pathlib import Path

import torch

from vilg.model.folder import Model, load_model, save_model


@torch.no_grad()
def main(first: Path, second: Path, share: float, out: Path) -> None:
    tokenizer, other = (load_model(folder).image_tokenizer for folder in (first, second))
    if tokenizer.fingerprint() != other.fingerprint():
        sys.exit(
            f"{second} has other codes than {first}: only decoders of the same codes can be averaged"
        )
    others = dict(other.decoder.named_parameters())
    for name, weight in tokenizer.decoder.named_parameters():
        weight.lerp_(others[name], share)
    save_model(out, Model(tokenizer))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
