"""The fast form against masked dense attention, forward and gradients, on any grid."""

import random
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vilg.model.attend import attend, window, window_mask
from vilg.model.patterns import Pattern
from vilg.model.segments import Grid, Layout, Modality, Role, Segment, with_padding

RANDOM = random.Random(0)
GRIDS = [
    (1, 1),
    (1, 7),
    (7, 1),
    (2, 3),
    (8, 8),
    (13, 13),  # the window is cut on no side of the middle cell
    (7, 3),  # several steps of the window share an offset
    (3, 12),
    *((RANDOM.randint(1, 12), RANDOM.randint(1, 14)) for _ in range(8)),
]
PATTERNS = [Pattern.ROW, Pattern.COLUMN, Pattern.CONVOLUTION, Pattern.DENSE]


def layouts(grid: Grid, num_text: int) -> dict[str, Layout]:
    """Return the tasks: text to image, image to text, question, and an image without text."""
    source, target = Role.SOURCE, Role.TARGET
    n = grid.num_cells
    segments = {
        "t2i": [("text", source, num_text), ("text", target, 1), ("image", target, n)],
        "i2t": [("image", source, n), ("text", target, num_text + 1)],
        "question": [("image", source, n), ("text", source, num_text), ("text", target, 2)],
        "image": [("image", target, n)],
        "null": [("text", target, 1), ("image", target, n)],
    }
    return {
        name: Layout(
            tuple(Segment(Modality(kind), role, length) for kind, role, length in parts),
            grid,
        )
        for name, parts in segments.items()
    }


def dense(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, pattern: Pattern, valid: Tensor
) -> Tensor:
    see_B1TT = with_padding(layout.visible(pattern), valid)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=see_B1TT).transpose(1, 2)


def fast(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, pattern: Pattern, valid: Tensor
) -> Tensor:
    return attend(pattern, layout, valid)(q, k, v)


def inputs(layout: Layout, batch: int, padded: bool) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(layout.length)
    shape = (batch, layout.length, 2, 4)
    qkv = [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).requires_grad_()
        for _ in range(3)
    ]
    valid = torch.ones(batch, layout.length, dtype=torch.bool)
    if padded:  # the end of the text of every other sample
        for segment, here, _ in layout.spans(0, layout.length):
            if segment.modality is Modality.TEXT and segment.length > 1:
                valid[::2, here.stop - segment.length // 2 : here.stop] = False
    return qkv, valid


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", GRIDS, ids=str)
def test_attend_is_masked_dense_attention(pattern: Pattern, size: tuple[int, int]) -> None:
    grid = Grid(*size)
    for num_text, padded in ((0, False), (1, False), (5, True)):
        for task, layout in layouts(grid, num_text).items():
            qkv, valid = inputs(layout, batch=3, padded=padded)
            found = fast(*qkv, layout, pattern, valid)
            expected = dense(*qkv, layout, pattern, valid)
            assert torch.allclose(found, expected, atol=1e-10), (task, num_text)
            upstream = torch.randn(found.shape, dtype=torch.float64)
            for a, b in zip(
                torch.autograd.grad(found, qkv, upstream),
                torch.autograd.grad(expected, qkv, upstream),
                strict=True,
            ):
                assert torch.allclose(a, b, atol=1e-9), (task, num_text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_attend_is_dense_to_1e_5_in_single_precision(pattern: Pattern) -> None:
    layout = layouts(Grid(12, 16), 9)["t2i"]
    qkv, valid = inputs(layout, batch=2, padded=True)
    single = [x.detach().float() for x in qkv]
    found = fast(*single, layout, pattern, valid)
    assert torch.allclose(found, dense(*single, layout, pattern, valid), atol=1e-5)


@pytest.mark.parametrize(("pattern", "causal"), [*product(PATTERNS[:3], (True, False))])
def test_a_window_holds_every_key_once(pattern: Pattern, causal: bool) -> None:
    for height, width in GRIDS:
        grid = Grid(height, width)
        shape = window(pattern, causal=causal)
        cells = torch.arange(grid.num_cells, dtype=torch.float64)[None]
        groups = shape.group(cells, grid)
        assert torch.equal(shape.ungroup(groups), cells)
        keys_GS = torch.cat(shape.keys(groups, fill=-1.0), dim=2)[0]
        for row in keys_GS.tolist():
            on_grid = [cell for cell in row if cell >= 0]
            assert len({*on_grid}) == len(on_grid)
        assert window_mask(pattern, grid, causal).any(dim=-1).all()


@pytest.mark.parametrize("task", ["t2i", "i2t"])
def test_no_tensor_as_large_as_all_scores_is_ever_made(task: str) -> None:
    """Boolean or float, in preparation or in reading, forward or backward: none has T x T places."""
    layout = layouts(Grid(24, 24), 6)[task]
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            tensors = out if isinstance(out, tuple | list) else [out]
            sizes.extend(x.untyped_storage().nbytes() for x in tensors if isinstance(x, Tensor))
            return out

    qkv, valid = inputs(layout, batch=1, padded=False)
    for pattern in (Pattern.ROW, Pattern.COLUMN):
        window_mask(pattern, layout.grid, task == "t2i")  # made once and kept
        sizes.clear()
        with Watch():
            fast(*qkv, layout, pattern, valid).sum().backward()
        # Two heads of four numbers of eight bytes each, against one byte of a boolean mask.
        assert sizes and max(sizes) < layout.length**2, pattern
