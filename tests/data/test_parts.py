"""Parts: everything is somebody's, once, for any number of workers."""

import json
from pathlib import Path

import numpy as np
import pytest

from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import (
    ITEMS,
    LeftOut,
    Worker,
    check_share,
    num_parts,
    own_parts,
    second_of_one_id,
)


def rejects(number: int) -> list[Pair | Reject]:
    return [Reject(place=str(i), reason="a test") for i in range(number)]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("number", [0, 1, ITEMS, ITEMS + 1, 3 * ITEMS, 3 * ITEMS + 999])
def test_every_item_is_one_workers(number: int, world: int) -> None:
    items = rejects(number)
    found: dict[int, list[Pair | Reject]] = {}
    for rank in range(world):
        for part, some in own_parts(
            iter(items), Worker(rank, world), lambda _: False, number, "test"
        ):
            assert part % world == rank and part not in found
            found[part] = some
    assert ([*found] and sorted(found) == [*range(num_parts(number))]) or number == 0
    assert [item for part in sorted(found) for item in found[part]] == items
    assert all(len(some) == ITEMS for part, some in found.items() if part < num_parts(number) - 1)


def test_what_is_done_is_left_alone() -> None:
    parts = own_parts(rejects(4 * ITEMS), Worker(1, 2), lambda part: part == 1, 4 * ITEMS, "test")
    assert [(part, some[0].place) for part, some in parts] == [(3, str(3 * ITEMS))]


@pytest.mark.parametrize("ids", ["", "a", "abc", "aa", "abab", "abcabcab", "zaza" * 30])
def test_the_first_of_one_id_stays(ids: str) -> None:
    hashes = np.array([hash(id) % 2**64 for id in ids], np.uint64)
    expected = [i for i, id in enumerate(ids) if id in ids[:i]]
    assert second_of_one_id(hashes).tolist() == expected


def test_too_much_left_out_is_refused() -> None:
    check_share(0, 0, 0.0, Path("r"))
    check_share(1, 10, 0.1, Path("r"))
    check_share(10, 10, 1.0, Path("r"))
    with pytest.raises(
        DataError, match=r"^2 of 10 pairs .* more than 10%: .* \(r has each\), .*--max-rejects"
    ):
        check_share(2, 10, 0.1, Path("r"))
    with pytest.raises(DataError, match=r"more than 0\.1%"):
        check_share(1, 10, 0.001, Path("r"))


def test_what_is_left_out_is_a_line() -> None:
    line = LeftOut("一 line 1", "é\n", "no 'picture'").line()
    assert line.count("\n") == 1 and "一" in line
    assert json.loads(line) == {
        "place": "一 line 1",
        "id": "é\n",
        "reason": "no 'picture'",
        "left_out": "pair",
    }
    named = LeftOut("caf\udce9.png", None, "x", is_pair=False).line()
    named.encode("utf-8")
    assert json.loads(named) | {"place": ""} == {
        "place": "",
        "id": None,
        "reason": "x",
        "left_out": "text",
    }
    assert json.loads(named)["place"] == "caf\udce9.png"
