"""Settings: there and back as JSON, errors that name the key, dotted overrides."""

import json
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from vilg.config import from_dict, later_key, override, to_json
from vilg.errors import SettingError, VilgError
from vilg.model.patterns import Pattern
from vilg.shipped.emoji import RECIPES
from vilg.training.settings import Recipe


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    rate: float = 0.5
    colours: tuple[Colour, ...] = (Colour.RED,)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    other: Inner | None = None
    sizes: tuple[int, ...] | None = None
    folder: Path = Path("here")
    is_fast: bool = False
    colour: Colour = Colour.BLUE
    extra: Inner = field(default_factory=lambda: Inner(size=9))


VALUES: dict[str, Any] = {"name": "a", "inner": {"size": 3}}
OUTER = Outer(name="a", inner=Inner(size=3))
FULL = Outer(
    name="名",
    inner=Inner(size=1, rate=1e-9, colours=(Colour.BLUE, Colour.RED)),
    other=Inner(size=2, colours=()),
    sizes=(1, 2, 3),
    folder=Path("/data/猫"),
    is_fast=True,
    colour=Colour.RED,
)


# --- There and back ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_the_round_trip(name: str) -> None:
    recipe = RECIPES[name].recipe()
    text = to_json(recipe)
    back = from_dict(Recipe, json.loads(text))
    assert back == recipe
    assert to_json(back) == text


def test_recipes_keep_their_types() -> None:
    recipe = RECIPES["emoji_cpu"].recipe()
    back = from_dict(Recipe, json.loads(to_json(recipe)))
    assert back.generator is not None
    assert isinstance(back.generator.data.source, str)
    assert all(isinstance(pattern, Pattern) for pattern in back.generator.patterns)
    assert isinstance(back.generator.patterns, tuple)


@pytest.mark.parametrize("config", [OUTER, FULL], ids=["defaults", "full"])
def test_every_kind_of_value_survives(config: Outer) -> None:
    assert from_dict(Outer, json.loads(to_json(config))) == config


def test_json_is_for_people() -> None:
    text = to_json(FULL)
    assert text.endswith("}\n")
    assert '  "name": "名",\n' in text
    assert '"folder": "/data/猫"' in text
    assert '"colour": "red"' in text
    assert to_json(FULL) == text


def test_missing_keys_take_their_defaults() -> None:
    assert from_dict(Outer, VALUES) == OUTER


def test_whole_numbers_do_for_floats() -> None:
    inner = from_dict(Inner, {"size": 1, "rate": 2})
    assert inner.rate == 2.0
    assert isinstance(inner.rate, float)


# --- Errors name the key ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nmae": 1}, ["unknown key nmae", "name, inner, other"]),
        ({"inner": {"size": 1, "sise": 2}}, ["unknown key inner.sise", "size, rate, colours"]),
        ({"other": {"size": 1, "sise": 2}}, ["unknown key other.sise", "size, rate, colours"]),
        ({"inner": {}}, ["missing key inner.size"]),
        ({"other": {"rate": 0.1}}, ["missing key other.size"]),
        ({"name": 3}, ["name must be of type str", "3"]),
        ({"name": None}, ["name must be of type str", "None"]),
        ({"inner": 3}, ["inner", "must be an object", "3"]),
        ({"inner": None}, ["inner", "must be an object", "None"]),
        ({"inner": {"size": 1.5}}, ["inner.size must be of type int", "1.5"]),
        ({"inner": {"size": "1"}}, ["inner.size must be of type int", "'1'"]),
        ({"inner": {"size": True}}, ["inner.size must be a whole number", "True"]),
        ({"inner": {"size": 1, "rate": True}}, ["inner.rate must be of type float", "True"]),
        ({"inner": {"size": 1, "rate": "fast"}}, ["inner.rate must be of type float", "'fast'"]),
        ({"inner": {"size": 1, "colours": "red"}}, ["inner.colours must be a list", "'red'"]),
        (
            {"inner": {"size": 1, "colours": ["red", "pink"]}},
            ["inner.colours", "red, blue", "pink"],
        ),
        ({"sizes": [1, "2"]}, ["sizes must be of type int", "'2'"]),
        ({"sizes": {"a": 1}}, ["sizes must be a list"]),
        ({"is_fast": 1}, ["is_fast must be of type bool", "1"]),
        ({"is_fast": "yes"}, ["is_fast must be of type bool", "'yes'"]),
        ({"colour": "pink"}, ["colour must be one of red, blue", "'pink'"]),
        ({"colour": ["red"]}, ["colour must be one of red, blue"]),
        ({"folder": 3}, ["folder must be of type Path", "3"]),
    ],
)
def test_an_error_names_key_and_value(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        from_dict(Outer, VALUES | changes)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("values", [None, 3, [], "name"])
def test_settings_that_are_no_object(values: Any) -> None:
    with pytest.raises(SettingError, match="Outer must be an object"):
        from_dict(Outer, values)


def test_missing_key_at_the_top() -> None:
    with pytest.raises(SettingError, match="missing key name"):
        from_dict(Outer, {"inner": {"size": 1}})


def test_errors_are_of_the_family_that_users_see() -> None:
    assert issubclass(SettingError, VilgError)


# --- Overrides --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "changes"),
    [
        ("name=b", {"name": "b"}),
        ('name="b c"', {"name": "b c"}),
        ("name=b c", {"name": "b c"}),
        ("name=a=b", {"name": "a=b"}),
        ("name=", {"name": ""}),
        ("inner.size=5", {"inner": Inner(size=5)}),
        ("inner.rate=1e-3", {"inner": Inner(size=3, rate=0.001)}),
        ("inner.rate=2", {"inner": Inner(size=3, rate=2.0)}),
        ('inner.colours=["blue"]', {"inner": Inner(size=3, colours=(Colour.BLUE,))}),
        ("inner.colours=[]", {"inner": Inner(size=3, colours=())}),
        ("extra.size=1", {"extra": Inner(size=1)}),
        ('other={"size": 4}', {"other": Inner(size=4)}),
        ("sizes=[4, 5]", {"sizes": (4, 5)}),
        ("sizes=null", {"sizes": None}),
        ("folder=/data/x", {"folder": Path("/data/x")}),
        ("is_fast=true", {"is_fast": True}),
        ("colour=red", {"colour": Colour.RED}),
        ('colour="red"', {"colour": Colour.RED}),
        (" colour =red", {"colour": Colour.RED}),
    ],
)
def test_an_override_changes_its_key_and_no_other(assignment: str, changes: dict[str, Any]) -> None:
    assert override(OUTER, [assignment]) == replace(OUTER, **changes)


def test_overrides_apply_in_order() -> None:
    found = override(FULL, ["other.size=7", "sizes=null", "other.rate=1", "other.size=8"])
    assert found.other == Inner(size=8, rate=1.0, colours=())
    assert found.sizes is None
    assert override(FULL, ["other=null"]).other is None
    assert override(OUTER, ['other={"size": 1}', "other.size=2"]).other == Inner(size=2)


def test_no_override_changes_nothing() -> None:
    assert override(FULL, []) == FULL


def test_the_settings_overridden_stay_as_they_are() -> None:
    before = to_json(FULL)
    override(FULL, ["inner.size=100", "sizes=[9]"])
    assert to_json(FULL) == before


def test_recipes_can_be_overridden() -> None:
    recipe = override(
        RECIPES["emoji_cpu_tiny"].recipe(),
        [
            "tokenizer.loop.num_steps=3",
            "generator.optim.peak_lr=1e-4",
            'generator.patterns=["row", "dense"]',
            "generator.data.only=[]",
            "generator.data.source=elsewhere",
        ],
    )
    assert recipe.tokenizer is not None
    assert recipe.generator is not None
    assert recipe.tokenizer.loop.num_steps == 3
    assert recipe.generator.optim.peak_lr == 1e-4
    assert recipe.generator.patterns == (Pattern.ROW, Pattern.DENSE)
    assert recipe.generator.data.only == ()
    assert recipe.generator.data.source == "elsewhere"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("name", ["'name'", "key=value"]),
        ("nmae=1", ["unknown key nmae", "name, inner, other"]),
        ("inner.sise=1", ["unknown key inner.sise", "size, rate, colours"]),
        ("inner.size.x=1", ["inner.size.x"]),
        ("inner.x.y=1", ["inner.x", "size, rate, colours"]),
        ("other.size=1", ["other"]),  # there is none to override; other={...} makes one
        ("iner.size=1", ["unknown key iner", "name, inner, other"]),
        ("=1", ["unknown key"]),
        ("inner.size=big", ["inner.size must be of type int", "'big'"]),
        ("inner.size=1.5", ["inner.size must be of type int", "1.5"]),
        ("inner.size=null", ["inner.size must be of type int", "None"]),
        ("inner=null", ["inner", "must be an object"]),
        ("colour=pink", ["colour must be one of red, blue", "'pink'"]),
        ('inner.colours=["pink"]', ["inner.colours must be one of", "'pink'"]),
        ("sizes=3", ["sizes must be a list", "3"]),
    ],
)
def test_an_override_that_cannot_be_names_its_key(assignment: str, words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        override(OUTER, [assignment])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("generator.num_heads=3", "num_heads 3 must divide the width"),
        ("generator.loop.log_every=0", "log_every must be at least 1"),
        ("generator.loop.batch_size=0", "batch_size must be at least 1"),
        ("generator.optim.betas=[0.9]", "betas must be two numbers"),
        ("generator.optim.clip_norm=-1", "clip_norm must be more than 0"),
        ("generator.data.limit=-1", "limit must be at least 1"),
        ("generator.data.only=[1]", "must be of type str"),
        ("tokenizer.model.norm_groups=3", "norm_groups 3 must divide every width"),
        ("tokenizer.model.image_size=60", "image_size must be a multiple of 8"),
        ("tokenizer.model.image_size=1073741824", "image_size must be at most 8192"),
        ("tokenizer.model.num_res_blocks=1000000000", "num_res_blocks must be at most 100"),
        (
            "tokenizer.model.channel_multipliers=[1, 1000000000]",
            "multipliers must be at most 65536",
        ),
        (f"tokenizer.model.channel_multipliers={[1] * 99_999}", "must have from 1 to 16 numbers"),
        ("tokenizer.loss.discriminator.num_layers=1000000000", "num_layers must be at most 16"),
        ("tokenizer.augmentation.max_shift=1000000", "max_shift must be from 0 to 256"),
        ("generator.loop.batch_size=1000000000", "batch_size must be at most 1048576"),
    ],
)
def test_settings_that_cannot_work_are_refused(assignment: str, said: str) -> None:
    with pytest.raises(SettingError, match=re.escape(said)):
        override(RECIPES["emoji_cpu_tiny"].recipe(), [assignment])


# --- Keys that came later, and settings of several kinds ---------------------------------------


@dataclass(frozen=True, kw_only=True)
class Circle:
    radius: int = 1
    filled: bool = later_key(False)
    kind: str = later_key("circle")


@dataclass(frozen=True, kw_only=True)
class Square:
    side: int
    kind: str = "square"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Circle | Square
    spare: Circle | Square | None = None


def test_a_later_key_is_written_only_when_it_says_something() -> None:
    assert json.loads(to_json(Circle())) == {"radius": 1}
    assert json.loads(to_json(Circle(filled=True))) == {"radius": 1, "filled": True}
    assert from_dict(Circle, {"radius": 2}) == Circle(radius=2)


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing(shape=Circle(radius=3)),
        Drawing(shape=Circle(filled=True), spare=Square(side=2)),
        Drawing(shape=Square(side=2), spare=Circle()),
    ],
)
def test_settings_of_several_kinds_survive(drawing: Drawing) -> None:
    assert from_dict(Drawing, json.loads(to_json(drawing))) == drawing


def test_the_kind_decides_which_keys_there_are() -> None:
    assert from_dict(Drawing, {"shape": {"radius": 2}}).shape == Circle(radius=2)
    with pytest.raises(SettingError, match=r"unknown key shape\.side: the keys here are radius"):
        from_dict(Drawing, {"shape": {"side": 2}})
    with pytest.raises(
        SettingError, match=r"shape\.kind must be one of circle, square, not 'cone'"
    ):
        from_dict(Drawing, {"shape": {"kind": "cone"}})
    with pytest.raises(SettingError, match=r"shape\.kind must be one of"):
        from_dict(Drawing, {"shape": 3})
    changed = override(Drawing(shape=Square(side=2)), ["shape.side=5"])
    assert changed == Drawing(shape=Square(side=5))


# --- Values that somebody else wrote ----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a", "inner": "x" * 10**5}, "inner must be an object"),
        ({"name": "a", "inner": {"size": ["x"] * 10**5}}, "inner.size must be of type int"),
        ({"name": "a", "inner": {"size": 1}, "colour": "x" * 10**5}, "colour must be one of red"),
        ({"name": "a", "inner": {"size": 1}, "sizes": "x" * 10**5}, "sizes must be a list"),
        ({"name": "a", "inner": {"size": 1}, "x" * 10**5: 1}, "unknown key x"),
    ],
)
def test_a_long_value_is_shortened_in_the_message(values: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said) as refused:
        from_dict(Outer, values)
    assert len(str(refused.value)) < 250


def test_a_kind_that_is_no_name_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"tokenizer.model.kind must be one of vqgan, dvae, not \[\]"
    ):
        override(RECIPES["emoji_cpu_tiny"].recipe(), ['tokenizer.model={"kind": []}'])


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 50_000])
def test_an_override_that_json_gives_up_on_is_one_sentence(text: str) -> None:
    with pytest.raises(SettingError, match=r"cannot read 'inner.size=") as refused:
        override(OUTER, [f"inner.size={text}"])
    assert len(str(refused.value)) < 300
