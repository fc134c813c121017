"""The choice of pictures: fair, nested, and inside what was asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.sources import write_packed
from vilg.data.pairs import DataError
from vilg.model.folder import Model
from vilg.shipped.samples import Settings, choose, encode_captions, read_splits

from .conftest import toy_samples


def test_a_choice_is_distinct_and_a_larger_one_begins_with_a_smaller_one() -> None:
    items = list(range(1000))
    chosen = choose(items, 50, seed=0)
    assert len(set(chosen)) == 50
    assert choose(items, 200, seed=0)[:50] == chosen
    assert choose(items, 50, seed=1) != chosen
    assert sorted(choose(items, None, seed=0)) == items
    assert sorted(choose(items[:3], 50, seed=0)) == items[:3]


def test_splits_hold_only_the_groups_and_keep_all_names(square_data: Path) -> None:
    splits = read_splits(square_data, Settings(only=("group=food-drink",), limit=2))
    # unseen_combination has nothing of the group and is left out.
    assert list(splits.whole) == ["train", "unseen_concept"]
    assert {sample.tags["group"] for sample in splits.samples} == {"food-drink"}
    assert {sample.tags["concept"] for sample in splits.samples} == {"0", "1", "2", "3"}
    assert {name: len(chosen) for name, chosen in splits.chosen.items()} == {
        "train": 2,
        "unseen_concept": 2,
    }


def test_without_a_limit_only_train_is_sampled(square_data: Path) -> None:
    splits = read_splits(square_data, Settings(num_train=3))
    sizes = {name: len(chosen) for name, chosen in splits.chosen.items()}
    assert sizes == {"train": 3, "unseen_combination": 2, "unseen_concept": 4}


def test_a_group_without_training_pictures_is_an_error(square_data: Path) -> None:
    (square_data / "splits" / "train.txt").write_text("flat-5\n")
    with pytest.raises(DataError, match="train split has no picture"):
        read_splits(square_data, Settings(only=("group=food-drink",)))
    with pytest.raises(DataError, match="no pair to measure has group=fruit, see vilg data stats"):
        read_splits(square_data, Settings(only=("group=fruit",)))


def test_a_data_set_without_what_the_suites_look_at_is_an_error(tmp_path: Path) -> None:
    whole = toy_samples()[0]
    for i, (lacking, changed) in enumerate(
        (
            ("style", replace(whole, tags={k: v for k, v in whole.tags.items() if k != "style"})),
            ("zh", replace(whole, captions={"en": whole.captions["en"]})),
        )
    ):
        folder = write_packed(tmp_path / str(i), [changed], {"train": ["flat-0"]})
        with pytest.raises(DataError, match=f"flat-0 has no {lacking}: the suites need captions"):
            read_splits(folder, Settings())


def test_a_caption_longer_than_the_model_reads_is_an_error(toy_model: Model) -> None:
    tokenizer = toy_model.text_tokenizer
    assert tokenizer is not None
    samples = toy_samples()[:1]
    [text] = encode_captions(samples, "en", tokenizer, 24)
    assert tokenizer.decode(text) == "apple, flat style"
    encode_captions(samples, "en", tokenizer, len(text) + 1)
    with pytest.raises(DataError, match=r"flat-0: its en caption has \d+ tokens"):
        encode_captions(samples, "en", tokenizer, len(text))
