"""Who sees whom: segments, roles and padding, against the mask table of the paper."""

import pytest
import torch
import torch.nn.functional as F

from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_layout,
    text_to_image_layout,
)
from vilg.model.patterns import Pattern, mask, paper_patterns
from vilg.model.segments import Grid, Layout, Modality, Role, Segment, with_padding

TEXT, IMAGE = Modality.TEXT, Modality.IMAGE
SOURCE, TARGET = Role.SOURCE, Role.TARGET

GRIDS = [Grid(1, 1), Grid(1, 5), Grid(5, 1), Grid(3, 4), Grid(4, 3), Grid(3, 13)]


def question_layout(question_length: int, answer_length: int, grid: Grid) -> Layout:
    return image_to_text_layout(answer_length, grid, question_length=question_length)


def texts_and_image_layout(grid: Grid) -> Layout:
    """[text source] [two starts: text targets] [image target after the second start]"""
    return Layout(
        (
            Segment(TEXT, SOURCE, 2),
            Segment(TEXT, TARGET, 2, branch=1),
            Segment(TEXT, TARGET, 1, branch=2),
            Segment(IMAGE, TARGET, grid.num_cells, branch=2),
        ),
        grid,
    )


def layouts(grid: Grid) -> list[Layout]:
    return [
        text_to_image_layout(4, grid),
        text_to_image_layout(0, grid),  # the null prompt
        image_to_text_layout(3, grid),
        image_to_text_layout(2, grid, num_texts=3),
        texts_and_image_layout(grid),
        question_layout(3, 2, grid),
    ]


def naive(layout: Layout, pattern: Pattern) -> list[list[bool]]:
    """Ask the rule of every pair: source sees source, target sees source and earlier target."""
    positions = [
        (segment, cell if segment.modality is IMAGE else None)
        for segment in layout.segments
        for cell in range(segment.length)
    ]
    relation = {
        role: mask(pattern, layout.grid.height, layout.grid.width, causal=role is TARGET).tolist()
        for role in Role
    }
    answers = []
    for q, (query, query_cell) in enumerate(positions):
        answers.append([])
        for k, (key, key_cell) in enumerate(positions):
            goes_on = query.role is TARGET and key.branch == query.branch and k <= q
            sees = key.role is SOURCE or goes_on
            if query_cell is not None and key_cell is not None:
                sees = sees and relation[query.role][query_cell][key_cell]
            answers[-1].append(sees)
    return answers


@pytest.mark.parametrize("pattern", Pattern)
def test_visible_is_the_naive_rule_in_every_task(pattern: Pattern) -> None:
    for grid in GRIDS:
        for layout in layouts(grid):
            assert layout.visible(pattern).tolist() == naive(layout, pattern), layout


def rows(drawing: str) -> list[list[bool]]:
    return [[mark == "x" for mark in line.split()] for line in drawing.strip().splitlines()]


def test_text_to_image_drawn_by_hand() -> None:
    """Two text tokens, the start, four cells of a 2 x 2 grid, column pattern."""
    expected = rows("""
        x x . . . . .
        x x . . . . .
        x x x . . . .
        x x x x . . .
        x x x . x . .
        x x x x . x .
        x x x . x . x
    """)
    assert text_to_image_layout(2, Grid(2, 2)).visible(Pattern.COLUMN).tolist() == expected


def test_image_to_text_drawn_by_hand() -> None:
    """Four cells of a 2 x 2 grid, three text tokens, row pattern."""
    expected = rows("""
        x x . . . . .
        x x . . . . .
        . . x x . . .
        . . x x . . .
        x x x x x . .
        x x x x x x .
        x x x x x x x
    """)
    assert image_to_text_layout(3, Grid(2, 2)).visible(Pattern.ROW).tolist() == expected


def test_two_texts_of_an_image_drawn_by_hand() -> None:
    """Four cells of a 2 x 2 grid, two texts of two tokens, row pattern."""
    expected = rows("""
        x x . . . . . .
        x x . . . . . .
        . . x x . . . .
        . . x x . . . .
        x x x x x . . .
        x x x x x x . .
        x x x x . . x .
        x x x x . . x x
    """)
    assert image_to_text_layout(2, Grid(2, 2), 2).visible(Pattern.ROW).tolist() == expected


@pytest.mark.parametrize("pattern", Pattern)
class TestMaskTable:
    """The four entries of the table in section 1.3 of paper.md."""

    grid = Grid(3, 4)

    def test_source_text_sees_all_text_and_no_image(self, pattern: Pattern) -> None:
        see = text_to_image_layout(5, self.grid).visible(pattern)
        assert see[:5, :5].all()
        assert not see[:5, 5:].any()

    def test_target_image_sees_all_text_and_the_causal_pattern(self, pattern: Pattern) -> None:
        see = text_to_image_layout(5, self.grid).visible(pattern)
        assert see[6:, :6].all()  # the text and the start
        assert torch.equal(see[6:, 6:], mask(pattern, 3, 4, causal=True))
        assert see[5, :6].all()  # the start itself
        assert not see[5, 6:].any()

    def test_source_image_sees_the_two_way_pattern_and_no_text(self, pattern: Pattern) -> None:
        see = image_to_text_layout(5, self.grid).visible(pattern)
        assert torch.equal(see[:12, :12], mask(pattern, 3, 4, causal=False))
        assert not see[:12, 12:].any()

    def test_target_text_sees_the_whole_image_and_the_text_to_its_left(
        self, pattern: Pattern
    ) -> None:
        see = image_to_text_layout(5, self.grid).visible(pattern)
        assert see[12:, :12].all()
        assert see[12:, 12:].tolist() == [[k <= q for k in range(5)] for q in range(5)]


@pytest.mark.parametrize("pattern", Pattern)
def test_question_and_image_see_each_other_and_never_the_answer(pattern: Pattern) -> None:
    see = question_layout(3, 2, Grid(2, 3)).visible(pattern)
    assert see[:6, 6:9].all()
    assert see[6:9, :9].all()
    assert not see[:9, 9:].any()
    assert see[9:, :9].all()


def test_positions_are_cut_into_segments() -> None:
    layout = question_layout(3, 2, Grid(2, 3))
    image, question, answer = layout.segments
    assert layout.length == 11
    assert list(layout.spans(4, 10)) == [
        (image, slice(0, 2), slice(4, 6)),
        (question, slice(2, 5), slice(0, 3)),
        (answer, slice(5, 6), slice(0, 1)),
    ]
    assert list(layout.spans(7, 9)) == [(question, slice(0, 2), slice(1, 3))]
    assert list(text_to_image_layout(0, Grid(1, 1)).spans(0, 1)) == [
        (Segment(TEXT, TARGET, 1), slice(0, 1), slice(0, 1))
    ]


def test_an_image_segment_covers_the_grid() -> None:
    with pytest.raises(AssertionError):
        Layout((Segment(IMAGE, SOURCE, 5),), Grid(2, 3))


def test_padded_keys_are_hidden_from_all_but_themselves() -> None:
    see = text_to_image_layout(3, Grid(2, 2)).visible(Pattern.ROW)
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[1, 1:3] = False
    valid[2, :3] = False
    padded = with_padding(see, valid)
    assert padded.shape == (3, 1, 8, 8)
    for b in range(3):
        for q in range(8):
            for k in range(8):
                expected = (bool(see[q, k]) and bool(valid[b, k])) or q == k
                assert bool(padded[b, 0, q, k]) is expected


def test_a_padded_query_gives_no_nan() -> None:
    """An all-padded source is the null prompt: its queries would softmax over nothing."""
    config = GeneratorConfig(
        width=8,
        num_heads=2,
        patterns=paper_patterns(4),
        grid_height=2,
        grid_width=3,
        num_codes=5,
        vocabulary_size=9,
        max_text=4,
    )
    torch.manual_seed(0)
    generator = Generator(config)
    layout = text_to_image_layout(3, config.grid)
    valid = F.pad(torch.tensor([[True, True, False], [False] * 3]), (0, 7), value=True)
    states = generator(
        layout, torch.ones(2, 10, dtype=torch.long), generator.layer_reads(layout, valid)
    )
    assert states.isfinite().all()
    states.sum().backward()
    assert all(
        weight.grad.isfinite().all() for weight in generator.parameters() if weight.grad is not None
    )
