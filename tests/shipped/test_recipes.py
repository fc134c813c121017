"""The recipes on the emoji, those beside the scripts, and what is said of all."""

import json
import runpy
from pathlib import Path

import pytest

from vilg.config import explain, from_dict, override, to_json
from vilg.model.folder import load_model, read_config
from vilg.shipped.emoji import RECIPES
from vilg.training.settings import Recipe

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src/vilg/assets"
EXPERIMENTS = runpy.run_path(str(ROOT / "runs/experiments.py"))["EXPERIMENTS"]


def test_every_recipe_is_told_in_a_line() -> None:
    for name, named in RECIPES.items():
        assert named.recipe() == named.recipe(), name
        assert named.summary and named.time and "\n" not in named.summary + named.time


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_survive_the_round_trip(name: str) -> None:
    recipe = EXPERIMENTS[name]()
    assert from_dict(Recipe, json.loads(to_json(recipe))) == recipe
    assert name not in RECIPES


@pytest.mark.parametrize("name", [*RECIPES, *EXPERIMENTS])
def test_every_setting_is_shown_as_it_is_set_and_explained(name: str) -> None:
    recipe = RECIPES[name].recipe() if name in RECIPES else EXPERIMENTS[name]()
    shown = dict(explain(recipe))
    assert all(meaning.endswith(".") for meaning in shown.values()), shown
    assert override(recipe, list(shown)) == recipe
    written: list[object] = [json.loads(to_json(recipe))]
    while any(isinstance(value, dict) for value in written):  # every leaf, once
        written = [
            item
            for value in written
            for item in (value.values() if isinstance(value, dict) else [value])
        ]
    assert len(shown) >= len(written)  # the file leaves out later keys that hold their defaults


def test_recipes_that_begin_with_the_shipped_tokenizer_have_its_shape() -> None:
    shipped = read_config(ASSETS / "emoji-tokenizer").image_tokenizer
    for recipe in (RECIPES["emoji_tokenizer"].recipe(), EXPERIMENTS["table7_decoder"]()):
        assert recipe.tokenizer is not None and recipe.tokenizer.model == shipped


def test_the_shipped_tokens_are_final() -> None:
    """Encoder and codes: another fingerprint would make every generator that was trained on them useless."""
    alone, part = (
        load_model(ASSETS / name).image_tokenizer for name in ("emoji-tokenizer", "emoji-64")
    )
    assert alone.fingerprint() == part.fingerprint() == "21d4f4b347703e1c"
