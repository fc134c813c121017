"""Settings: frozen dataclasses, their JSON form, and dotted overrides.

A run is one frozen dataclass; a recipe returns it; a variant is `dataclasses.replace`. The JSON is
strict in both directions, because a misspelt key that is ignored costs a day of training.
"""

import dataclasses
import inspect
import json
import re
import reprlib
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from vilg.errors import SettingError
from vilg.errors import require as require

Config = TypeVar("Config")
_ATTRIBUTE = re.compile(r"^    ([a-z]\w*(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
_LARGEST = 2**63 - 1  # what a tensor's size, a seed and a step can be

_LONGEST = 16  # numbers in a list of counts; the paper's networks have 4 levels


def later_key(default: Any) -> Any:
    """Declare a key that came after files were written without it.

    It is left out of them while it holds its default, so that files and the fingerprints taken of
    them stay as they were (docs/lab/decisions/0005).
    """
    return dataclasses.field(default=default, metadata={"later": True})


def check_counts(config: Any, **largest: int) -> None:
    """Refuse counts, or lists of them, outside 1 to a largest one: what else is built of them never ends.

    Raises:
        SettingError: names the key.
    """
    for name, most in largest.items():
        value = getattr(config, name)
        counts = value if isinstance(value, tuple) else (value,)
        require(1 <= len(counts) <= _LONGEST, f"{name} must have from 1 to {_LONGEST} numbers")
        require(min(counts) >= 1, f"{name} must be at least 1")
        require(max(counts) <= most, f"{name} must be at most {most}")


def to_json(config: Any) -> str:
    """Write a (nested) dataclass as stable, readable JSON."""
    return json.dumps(_as_values(config), indent=2, ensure_ascii=False, default=str) + "\n"


def _as_values(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _as_values(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not ("later" in field.metadata and getattr(value, field.name) == field.default)
        }
    return [_as_values(item) for item in value] if isinstance(value, tuple | list) else value


def explain(config: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting as `override` takes it, and its meaning from its class's docstring."""
    meanings = {
        name: " ".join(meaning.split()).replace("None", "null")  # as it is written
        for names, meaning in _ATTRIBUTE.findall(inspect.getdoc(type(config)) or "")
        for name in names.split(", ")
    }
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from explain(value, f"{where}{field.name}.")
        else:
            is_text = isinstance(value, str | Path)
            text = str(value) if is_text else json.dumps(_as_values(value), ensure_ascii=False)
            yield f"{where}{field.name}={text}", meanings.get(field.name, "")


def _shown(value: Any) -> str:
    """Return a value of somebody's file as a message shows it."""
    return reprlib.repr(value).replace("\n", " ")


def from_dict(cls: type[Config], values: Any, where: str = "") -> Config:
    """Build a (nested) dataclass; every key must be known and every required key present.

    Raises:
        SettingError: names the key in dotted form.
    """
    assert dataclasses.is_dataclass(cls)
    if not isinstance(values, dict):
        raise SettingError(
            f"{where.rstrip('.') or cls.__name__} must be an object, not {_shown(values)}"
        )
    types_by_name = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise SettingError(
            f"unknown key {where}{unknown[0]!s:.60}: the keys here are {', '.join(names)}"
        )
    built = {
        name: _convert(types_by_name[name], value, f"{where}{name}")
        for name, value in values.items()
    }
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in built
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SettingError(f"missing key {where}{missing[0]}")
    return cls(**built)


def _convert(kind: Any, value: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [argument for argument in arguments if argument is not type(None)]
        return _convert(_choose(kinds, value, key), value, key)
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type[Any], kind), value, f"{key}.")
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SettingError(f"{key} must be a list, not {_shown(value)}")
        return tuple(_convert(arguments[0], item, key) for item in value)
    if isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:  # NaN too
        raise SettingError(f"{key} must be a number from -2^63 to 2^63")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in list(kind):
            raise SettingError(f"{key} must be one of {', '.join(kind)}, not {_shown(value)}")
        return kind(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and (type(value) is kind or isinstance(value, kind)):
        if kind is int and isinstance(value, bool):
            raise SettingError(f"{key} must be a whole number, not {_shown(value)}")
        return value
    raise SettingError(
        f"{key} must be of type {getattr(kind, '__name__', kind)}, not {_shown(value)}"
    )


def _choose(kinds: list[Any], value: Any, key: str) -> Any:
    """Choose among classes of settings by their default of the key `kind`; the first has it implied."""
    if len(kinds) == 1:
        return kinds[0]
    by_name: dict[str, Any] = {kind.kind: kind for kind in kinds}  # the default is on the class
    name = value.get("kind", next(iter(by_name))) if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in by_name:
        raise SettingError(f"{key}.kind must be one of {', '.join(by_name)}, not {_shown(name)}")
    return by_name[name]


def override(config: Config, assignments: list[str]) -> Config:
    """Return the settings with `key.subkey=value` assignments applied, values in JSON or bare text.

    Raises:
        SettingError: an assignment without '=', an unknown key, or a value of another type.
    """
    values = dataclasses.asdict(typing.cast(Any, config))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise SettingError(f"cannot read {_shown(assignment)}: write key=value")
        *parents, last = key.strip().split(".")
        place = values
        for parent in parents:
            if parent not in place:
                raise SettingError(
                    f"unknown key {parent:.60} in {key.strip():.60}: the keys here are {', '.join(place)}"
                )
            if not isinstance(place[parent], dict):
                raise SettingError(
                    f"unknown key {key.strip():.60}: {parent} is {_shown(place[parent])} and has no keys"
                )
            place = place[parent]
        try:
            place[last] = json.loads(text)
        except json.JSONDecodeError:
            place[last] = text  # bare text: a path or a name
        except (
            ValueError,
            RecursionError,
        ) as error:  # a number of 5,000 digits, brackets in brackets
            raise SettingError(f"cannot read {_shown(assignment)}: {error}") from error
    return from_dict(type(config), values)
