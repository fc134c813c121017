"""Patterns against a naive reference, pair by pair, written from the paper's words."""

import random
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vilg.model.patterns import Pattern, decode_window, mask, paper_patterns, window_offsets

Cell = tuple[int, int]

RANDOM = random.Random(0)
GRIDS = [
    (1, 1),
    (1, 7),
    (7, 1),
    (1, 13),
    (13, 1),
    (2, 2),
    (8, 8),
    (13, 13),  # the window is cut on no side of the middle cell
    (7, 3),  # several steps of the window share an offset
    (3, 12),
    *((RANDOM.randint(1, 12), RANDOM.randint(1, 14)) for _ in range(20)),
]


def raster_walk_back(query: Cell, width: int) -> list[Cell]:
    """Walk from the query over the row edge to the same column of the previous row."""
    row, column = query
    walk = [query]
    while (row, column) != (query[0] - 1, query[1]) and (row, column) != (0, 0):
        row, column = (row, column - 1) if column else (row - 1, width - 1)
        walk.append((row, column))
    return walk


def kernel_cells(query: Cell, width: int, *, wraps: bool) -> list[Cell]:
    """Visit the 11 x 11 window round the query, over the edges of the rows if it wraps."""
    cells = []
    for down in (-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5):
        for right in (-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5):
            row, column = query[0] + down, query[1] + right
            if wraps and not 0 <= column < width:
                row, column = row + column // width, column % width
            cells.append((row, column))
    return cells


def naive(pattern: Pattern, height: int, width: int, *, causal: bool) -> list[list[bool]]:
    """Ask of every pair of cells whether the query may read the key."""
    cells = [(row, column) for row in range(height) for column in range(width)]
    answers = []
    for query in cells:
        near = set(kernel_cells(query, width, wraps=causal))
        band = set(raster_walk_back(query, width))
        answers.append([])
        for key in cells:
            if causal and key > query:  # tuples compare in raster order
                sees = False
            elif pattern is Pattern.DENSE:
                sees = True
            elif pattern is Pattern.COLUMN:
                sees = key[1] == query[1]
            elif pattern is Pattern.CONVOLUTION:
                sees = key in near
            else:
                sees = key in band if causal else key[0] == query[0]
            answers[-1].append(sees)
    return answers


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "two-way"])
@pytest.mark.parametrize("pattern", Pattern)
def test_mask_is_the_naive_relation_on_any_grid(pattern: Pattern, causal: bool) -> None:
    for height, width in GRIDS:
        found = mask(pattern, height, width, causal=causal)
        assert found.dtype == torch.bool
        assert found.tolist() == naive(pattern, height, width, causal=causal), (height, width)


@pytest.mark.parametrize("pattern", Pattern)
def test_no_causal_query_reads_a_later_cell_and_every_query_reads_itself(pattern: Pattern) -> None:
    for height, width in GRIDS:
        causal = mask(pattern, height, width, causal=True)
        assert not causal.triu(diagonal=1).any()
        assert causal.diagonal().all()
        assert mask(pattern, height, width, causal=False).diagonal().all()


@pytest.mark.parametrize("pattern", Pattern)
def test_two_way_mask_is_symmetric(pattern: Pattern) -> None:
    for height, width in GRIDS:
        two_way = mask(pattern, height, width, causal=False)
        assert torch.equal(two_way, two_way.T)


def num_keys(pattern: Pattern, *, causal: bool) -> list[list[int]]:
    """Count the keys of every cell of the paper's 32 x 32 grid."""
    return mask(pattern, 32, 32, causal=causal).sum(dim=1).view(32, 32).tolist()


def test_causal_row_reads_33_cells_behind_the_first_row() -> None:
    counts = num_keys(Pattern.ROW, causal=True)
    assert counts[0] == list(range(1, 33))
    assert {count for row in counts[1:] for count in row} == {33}


def test_causal_column_reads_the_cells_above_and_itself() -> None:
    assert num_keys(Pattern.COLUMN, causal=True) == [[row + 1] * 32 for row in range(32)]


def test_causal_window_reads_61_cells() -> None:
    counts = num_keys(Pattern.CONVOLUTION, causal=True)
    assert counts[0][:8] == [1, 2, 3, 4, 5, 6, 6, 6]
    # From the sixth row on, the fifth row above is there from its first column, less 5 by the edge.
    assert counts[5][:7] == [56, 57, 58, 59, 60, 61, 61]
    assert {count for row in counts[6:] for count in row} == {61}


def test_two_way_patterns_read_32_32_and_up_to_121_cells() -> None:
    assert num_keys(Pattern.ROW, causal=False) == [[32] * 32] * 32
    assert num_keys(Pattern.COLUMN, causal=False) == [[32] * 32] * 32
    counts = num_keys(Pattern.CONVOLUTION, causal=False)
    side = [6, 7, 8, 9, 10, *[11] * 22, 10, 9, 8, 7, 6]
    assert counts == [[up * across for across in side] for up in side]
    assert counts[16][16] == 121


def test_window_offsets_are_a_set_and_61_on_wide_grids() -> None:
    for width in range(1, 40):
        expected = {
            up * width + left for up in range(6) for left in range(-5, 6) if up * width + left >= 0
        }
        offsets = window_offsets(width).tolist()
        assert len(offsets) == len(set(offsets))  # a key counted twice gets twice its weight
        assert set(offsets) == expected
        assert len(offsets) == 61 or width < 11


@pytest.mark.parametrize(("num_layers", "columns", "rows"), [(8, 2, 5), (24, 6, 17), (48, 12, 35)])
def test_layer_rule(num_layers: int, columns: int, rows: int) -> None:
    patterns = paper_patterns(num_layers)
    assert Counter(patterns) == {
        Pattern.COLUMN: columns,
        Pattern.ROW: rows,
        Pattern.CONVOLUTION: 1,
    }
    assert patterns[-1] is Pattern.CONVOLUTION
    numbers = [i for i, pattern in enumerate(patterns, start=1) if pattern is Pattern.COLUMN]
    assert numbers == list(range(2, num_layers, 4))


def test_last_layer_is_convolutional_whatever_its_number() -> None:
    for num_layers in (1, 2, 6, 10):
        patterns = paper_patterns(num_layers)
        assert len(patterns) == num_layers
        assert patterns[-1] is Pattern.CONVOLUTION
        assert Pattern.CONVOLUTION not in patterns[:-1]


@pytest.mark.parametrize("pattern", list(Pattern))
def test_the_window_of_decoding_makes_no_matrix_of_cells(pattern: Pattern) -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max(largest, made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    with Watch():
        decode_window.__wrapped__(pattern, 31, 32)
    assert largest <= 31 * 32
