"""Tables in parts: what is kept after a run that broke off, and what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vilg.data.lines import Row, made_from, read_lines_of, write_lines
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import ITEMS, Worker
from vilg.data.sources import Source, open_source

NUMBER = 2 * ITEMS + 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.png").write_bytes(b"")
    lines = [{"id": f"{i}", "image": "a.png", "en": f"n {i}"} for i in range(NUMBER)]
    lines[3]["en"] = ""
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_source(str(folder / "pairs.jsonl"))


class About:
    """Tells the ids of even pairs, and counts the items that it was asked about."""

    asked = 0

    def __call__(self, items: Sequence[Pair | Reject]) -> list[Row | None]:
        self.asked += len(items)
        return [
            {"id": item.id} if isinstance(item, Pair) and int(item.id) % 2 == 0 else None
            for item in items
        ]


def write(
    source: Source,
    path: Path,
    about: About,
    worker: Worker | None = None,
    finish: Callable[[], Callable[[Row], Row]] | None = None,
    **settings: object,
) -> bool:
    return write_lines(source, path, settings, about, what="rows", worker=worker, finish=finish)


def test_a_line_for_each_item_that_there_is_something_to_say_about(
    source: Source, tmp_path: Path
) -> None:
    path, about = tmp_path / "new" / "table.jsonl", About()
    assert write(source, path, about, by="a")
    assert [row["id"] for row in read_lines_of(path)] == [str(i) for i in range(0, NUMBER, 2)]
    assert about.asked == NUMBER
    assert made_from(path) == {"source": source.identity.sha256, "items": NUMBER, "by": "a"}
    assert sorted(file.name for file in path.parent.iterdir()) == ["table.jsonl", "table.made_from"]
    assert write(source, path, about, by="a") and about.asked == NUMBER


def test_what_breaks_off_as_parts_are_joined_is_not_made_again(
    source: Source, tmp_path: Path
) -> None:
    path, about = tmp_path / "table.jsonl", About()

    def fail() -> Callable[[Row], Row]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(source, path, about, finish=fail)
    assert not path.exists() and about.asked == NUMBER
    assert write(source, path, about, finish=lambda: lambda row: {**row, "done": True})
    assert about.asked == NUMBER
    assert all(row["done"] for row in read_lines_of(path))


def test_what_a_kill_leaves_behind_is_cleared(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    assert not write(source, path, About(), Worker(0, 2))
    (tmp_path / "table.parts" / "joined-1").write_text("half of a li")
    (tmp_path / "table.parts" / ".00000001-1.part").write_text("half of a li")
    assert write(source, path, About(), Worker(1, 2))
    assert len([*read_lines_of(path)]) == NUMBER // 2
    (tmp_path / "table.parts").mkdir()
    assert write(source, path, About())
    assert not (tmp_path / "table.parts").exists()


def test_tables_of_something_else_are_left_alone(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text("mine\n")
    with pytest.raises(DataError, match="does not say what it is made from"):
        write(source, path, About())
    assert path.read_text() == "mine\n"
    path.unlink()
    assert not write(source, path, About(), Worker(0, 2), by="a")
    with pytest.raises(DataError, match=r"made from another by \(a, now b\)"):
        write(source, path, About(), Worker(1, 2), by="b")


def test_who_is_late_begins_nothing_again(source: Source, tmp_path: Path) -> None:
    """While one is at its first part, another makes all of them, joins them and clears up."""
    path, quick = tmp_path / "table.jsonl", About()

    class Late(About):
        def __call__(self, items: Sequence[Pair | Reject]) -> list[Row | None]:
            assert write(source, path, quick)
            return super().__call__(items)

    late = Late()
    assert write(source, path, late)
    assert (quick.asked, late.asked) == (NUMBER, ITEMS)
    assert len([*read_lines_of(path)]) == NUMBER // 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["table.jsonl", "table.made_from"]


def test_who_joins_what_another_has_joined_does_no_harm(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"

    def overtaken() -> Callable[[Row], Row]:
        assert write(source, path, About())
        return lambda row: row

    assert write(source, path, About(), finish=overtaken)
    assert len([*read_lines_of(path)]) == NUMBER // 2
    assert not (tmp_path / "table.parts").exists()
