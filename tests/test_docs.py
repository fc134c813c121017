"""What the pages name exists: files, functions, tests, links; the README is short."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAPER = "docs/paper.md"
CARDS = (ROOT / "src" / "vilg" / "assets").glob("*/README.md")
LINKED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *CARDS,
]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# `file.py`: `name`, `Class.name`
NAMED = re.compile(r"`((?:[\w-]+/)*[\w-]+\.py)`: ((?:`[\w.]+`(?:, )?)+)")


def source_of(path: str) -> str:
    """Read a file of the package, or one that is named from the root."""
    found = [place / path for place in (ROOT, ROOT / "src" / "vilg") if (place / path).is_file()]
    assert found, f"{path} does not exist"
    return found[0].read_text(encoding="utf-8")


def test_named_tests_exist() -> None:
    text = (ROOT / PAPER).read_text(encoding="utf-8")
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


def test_named_code_exists() -> None:
    text = (ROOT / PAPER).read_text(encoding="utf-8")
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


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    for link in links:
        if not link.startswith(("https://", "http://")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors_of(target), f"{page}: {link}"


def test_links_are_found_and_anchors_are_github_s() -> None:
    assert len(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))) > 10
    anchors = anchors_of(ROOT / PAPER)
    assert {"table-7-on-emoji", "what-the-paper-doesnt-contain-though-often-quoted"} <= anchors


def test_the_readme_has_under_900_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 900


def test_nobody_is_sent_to_an_index_for_vilg() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    for page in [*LINKED, ROOT / "NOTICE", ROOT / "CHANGELOG.md", *sources]:
        advised = re.search(
            r"pip install [^\n]*[\"']?\bvilg(\[|[\"'`])", page.read_text(encoding="utf-8")
        )
        assert not advised, f"{page}: {advised}"
