"""What the pages name exists: files, functions and tests."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["docs/paper-to-code.md", "docs/paper-fidelity.md"]
# `file.py`: `name`, `Class.name`
NAMED = re.compile(r"`((?:[\w-]+/)*[\w-]+\.py)`: ((?:`[\w.]+`(?:, )?)+)")


def source_of(path: str) -> str:
    """Read a file of the package, or one that is named from the root."""
    found = [place / path for place in (ROOT, ROOT / "src" / "vilg") if (place / path).is_file()]
    assert found, f"{path} does not exist"
    return found[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)[^`]*`", text)
    named += re.findall(r"`(tests/[\w/]+\.py)` \(`(test_\w+)`", text)
    assert len(named) > 20
    for path, names in named:
        check_defined(path, names)


def check_defined(path: str, names: str) -> None:
    """Find every name of a test's id, such as "::TestMask::test_x", in its file."""
    source = source_of(path)
    for name in filter(None, names.split("::")):
        assert re.search(rf"(def|class) {name}\b", source), f"{path} has no {name}"


@pytest.mark.parametrize("page", PAGES[:1])
def test_named_code_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = [
        (path, name)
        for path, names in NAMED.findall(text)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(named) > 40
    for path, name in named:
        source = source_of(path)
        for part in name.split("."):  # a class and its method or attribute, a function, a constant
            defined = rf"^\s*(?:(?:def|class) {part}\b|(?:self\.)?{part}\b[^=\n]*[:=])"
            assert re.search(defined, source, re.MULTILINE), f"{path} has no {name}"


def test_the_table_of_rooms_is_what_import_linter_checks() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("| room | holds |")[1].split("\n\n")[0]
    rows = [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines()[2:]]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["id"] == "rooms"]
    assert rows == [set(re.findall(r"\w+", layer)) for layer in layers]
