"""The token store: what was written comes back, and only to whom it was written for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vilg.data.pairs import DataError
from vilg.data.tokens import has_tokens, load_tokens, save_tokens

IDS = ["flat-1F34E", "noto-1F34E", "noto-2B50"]
BY = "0123456789abcdef"


@pytest.fixture
def tokens_SN() -> NDArray[np.uint16]:
    """Three rows with the largest id that fits."""
    return np.array([[0, 1, 2, 65535], [4, 5, 6, 7], [8, 9, 8191, 0]], dtype=np.uint16)


@pytest.fixture
def store(tmp_path: Path, tokens_SN: NDArray[np.uint16]) -> Path:
    """A whole store."""
    save_tokens(tmp_path / "deep" / "tokens", IDS, tokens_SN, BY)
    return tmp_path / "deep" / "tokens"


def test_tokens_come_back(store: Path, tokens_SN: NDArray[np.uint16]) -> None:
    found = load_tokens(store, IDS, BY)
    assert found.dtype == np.uint16
    assert np.array_equal(found, tokens_SN)
    assert isinstance(found, np.memmap)  # read by need, not all at once
    assert found[1].tolist() == [4, 5, 6, 7]


def test_a_store_is_there_once_it_is_whole(store: Path, tmp_path: Path) -> None:
    assert has_tokens(store)
    assert not has_tokens(tmp_path)
    (store / "tokens.json").unlink()  # written last
    assert not has_tokens(store)


@pytest.mark.parametrize("ids", [IDS[:2], [*IDS, "noto-1"], IDS[::-1], [*IDS[:2], "noto-1"], []])
def test_tokens_of_other_samples_are_refused(store: Path, ids: list[str]) -> None:
    with pytest.raises(DataError, match="tokens of other samples: delete the folder") as caught:
        load_tokens(store, ids, BY)
    assert str(store) in str(caught.value)


def test_tokens_of_another_image_tokenizer_are_refused(store: Path) -> None:
    with pytest.raises(DataError, match=f"tokenizer {BY}, not of fedcba") as caught:
        load_tokens(store, IDS, "fedcba9876543210")
    assert str(store) in str(caught.value) and "delete the folder" in str(caught.value)


def test_a_store_can_be_written_again(store: Path, tokens_SN: NDArray[np.uint16]) -> None:
    save_tokens(store, IDS[:2], tokens_SN[1:], "other")
    assert np.array_equal(load_tokens(store, IDS[:2], "other"), tokens_SN[1:])
    with pytest.raises(DataError):
        load_tokens(store, IDS, BY)


@pytest.mark.parametrize("name", ["tokens.json", "tokens.npy"])
def test_a_damaged_store_is_named(store: Path, name: str) -> None:
    whole = (store / name).read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        (store / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_tokens(store, IDS, BY)
        assert str(store) in str(caught.value)


def test_a_store_without_its_tokens_is_named(store: Path) -> None:
    (store / "tokens.npy").unlink()
    with pytest.raises(DataError) as caught:
        load_tokens(store, IDS, BY)
    assert str(store) in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 4)), np.zeros(3, np.uint16), np.array(3, np.uint16)]
)
def test_an_array_of_another_kind_is_refused(store: Path, wrong: NDArray[np.generic]) -> None:
    np.save(store / "tokens.npy", wrong)
    with pytest.raises(DataError, match=r"are damaged.*delete the folder"):
        load_tokens(store, IDS, BY)


def test_rows_that_are_missing_are_noticed(store: Path, tokens_SN: NDArray[np.uint16]) -> None:
    np.save(store / "tokens.npy", tokens_SN[:2])
    with pytest.raises(DataError, match="tokens of other samples"):
        load_tokens(store, IDS, BY)
