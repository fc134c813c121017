"""The token store: every picture's ids, computed once, fixed width, memory-mapped.

`tokens.npy` holds one uint16 row a sample; `tokens.json` says which samples, in which order, by which
image tokenizer. 65,536 codes fit.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilg.data.pairs import DataError
from vilg.files import write_whole


def save_tokens(folder: Path, ids: Sequence[str], tokens_SN: NDArray[np.uint16], by: str) -> None:
    """Write a store.

    Args:
        ids: sample ids, one a row.
        by: fingerprint of the image tokenizer.
    """
    assert len(ids) == len(tokens_SN) and tokens_SN.dtype == np.uint16
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", tokens_SN)
    # Last and at once, because its presence says that the store is whole.
    write_whole(folder / "tokens.json", json.dumps({"image_tokenizer": by, "ids": list(ids)}))


def has_tokens(folder: Path) -> bool:
    """Say whether a store was written here to its end."""
    return (folder / "tokens.json").is_file()


def load_tokens(folder: Path, ids: Sequence[str], by: str) -> NDArray[np.uint16]:
    """Open a store written for just these samples by just this image tokenizer.

    Raises:
        DataError: it was made for others, or is damaged; the message says what to do.
    """
    try:
        record = json.loads((folder / "tokens.json").read_text())
        its_tokenizer, its_ids = record["image_tokenizer"], record["ids"]
        tokens_SN: NDArray[np.uint16] = np.load(folder / "tokens.npy", mmap_mode="r")
        if tokens_SN.ndim != 2 or tokens_SN.dtype != np.uint16:
            raise ValueError(f"an array of {tokens_SN.ndim} dimensions of {tokens_SN.dtype}")
    except (OSError, EOFError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"the tokens in {folder} are damaged ({error}): delete the folder, it will be made anew"
        ) from error
    if its_tokenizer != by:
        raise DataError(
            f"{folder} holds tokens of image tokenizer {its_tokenizer}, not of {by}: "
            "delete the folder, it will be made anew"
        )
    if its_ids != list(ids) or len(tokens_SN) != len(ids):
        raise DataError(
            f"{folder} holds tokens of other samples: delete the folder, it will be made anew"
        )
    return tokens_SN
