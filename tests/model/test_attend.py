"""The fast form against masked dense attention, forward and gradients, on any grid."""

import random
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vilg.model.attend import (
    MOST_KEPT_KEYS,
    Form,
    attend,
    attend_dense,
    attend_flex,
    masked,
    window,
    window_mask,
)
from vilg.model.patterns import Pattern, mask
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
    # Narrow and high: the causal window goes on over several short rows.
    (8, 3),
    (9, 2),
    (12, 1),
    (12, 4),
    *((RANDOM.randint(1, 12), RANDOM.randint(1, 14)) for _ in range(12)),
]
PATTERNS = [Pattern.ROW, Pattern.COLUMN, Pattern.CONVOLUTION, Pattern.DENSE]


def layouts(grid: Grid, num_text: int) -> dict[str, Layout]:
    """Return the tasks, images without text, and layouts with several branches."""
    source, target = Role.SOURCE, Role.TARGET
    n = grid.num_cells
    segments: dict[str, list[tuple]] = {
        "t2i": [("text", source, num_text), ("text", target, 1), ("image", target, n)],
        "i2t": [("image", source, n), ("text", target, num_text + 1)],
        "question": [("image", source, n), ("text", source, num_text), ("text", target, 2)],
        "image": [("image", target, n)],
        "null": [("text", target, 1), ("image", target, n)],
        "i2texts": [("image", source, n), *(("text", target, num_text, i) for i in range(3))],
        "branches": [("text", target, 2, 1), ("text", target, 1, 2), ("image", target, n, 2)],
    }
    return {
        name: Layout(
            tuple(Segment(Modality(kind), *others) for kind, *others in parts),
            grid,
        )
        for name, parts in segments.items()
    }


def inputs(layout: Layout, batch: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Random queries, keys and values, and texts of random lengths, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, layout.length, 2, 4)
    qkv = [
        (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).requires_grad_()
        for _ in range(3)
    ]
    valid = torch.ones(batch, layout.length, dtype=torch.bool)
    for segment, here, _ in layout.spans(0, layout.length):
        if segment.modality is Modality.TEXT and segment.role is Role.SOURCE:
            lengths = torch.randint(0, segment.length + 1, (batch, 1), generator=generator)
            valid[:, here] = torch.arange(segment.length) < lengths
    return qkv, valid


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", GRIDS, ids=str)
def test_attend_is_masked_dense_attention(pattern: Pattern, size: tuple[int, int]) -> None:
    grid = Grid(*size)
    draw = random.Random(str(size))
    for num_text in (0, 1, draw.randint(2, 9)):
        for task, layout in layouts(grid, num_text).items():
            qkv, valid = inputs(layout, batch=draw.randint(1, 4), seed=draw.randint(0, 99))
            found = attend(pattern, layout, valid)(*qkv)
            expected = attend_dense(pattern, layout, valid)(*qkv)
            assert torch.allclose(found, expected, atol=1e-10), (task, num_text)
            upstream = torch.randn(found.shape, dtype=torch.float64)
            for a, b in zip(
                torch.autograd.grad(found, qkv, upstream),
                torch.autograd.grad(expected, qkv, upstream),
                strict=True,
            ):
                assert torch.allclose(a, b, atol=1e-9), (task, num_text)


def test_the_dense_form_is_a_softmax_over_what_is_seen() -> None:
    """The reference itself, score by score."""
    layout = layouts(Grid(3, 4), 3)["t2i"]
    qkv, valid = inputs(layout, batch=2, seed=1)
    q, k, v = (x.detach() for x in qkv)
    found = attend_dense(Pattern.ROW, layout, valid)(q, k, v)
    see = with_padding(layout.visible(Pattern.ROW), valid)[:, 0]
    for b, i, h in product(range(2), range(layout.length), range(2)):
        keys = [j for j in range(layout.length) if see[b, i, j]]
        weights = torch.stack([q[b, i, h] @ k[b, j, h] / 2 for j in keys]).softmax(0)
        expected = sum(w * v[b, j, h] for w, j in zip(weights, keys, strict=True))
        assert torch.allclose(found[b, i, h], expected)


def halves(num_keys: int, *, seed: int = 0) -> list[Tensor]:
    """Queries, keys and values in bf16, of 5 positions that read so many."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, length, 2, 4, generator=generator).bfloat16().requires_grad_()
        for length in (5, num_keys, num_keys)
    ]


def keeping(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vilg.model.attend.MOST_KEPT_KEYS", num)


@pytest.mark.parametrize("most_kept", [0, 256])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_in_bf16_are_those_of_double_precision(
    autocast: bool, most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the fused kernel and through kept scores alike, to the 3 digits that bf16 has."""
    keeping(most_kept, monkeypatch)
    layout = layouts(Grid(8, 8), 9)["t2i"]
    qkv, valid = inputs(layout, batch=2, seed=0)
    rounded = [x.detach().bfloat16().requires_grad_() for x in qkv]
    read = attend_dense(Pattern.ROW, layout, valid)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = read(*rounded)
    assert found.dtype is torch.bfloat16
    expected = read(*qkv)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    pairs = zip(
        (found, *torch.autograd.grad(found, rounded, upstream.bfloat16())),
        (expected, *torch.autograd.grad(expected, qkv, upstream)),
        strict=True,
    )
    for a, b in pairs:
        assert (a.double() - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_kept_scores_go_through_a_softmax_in_single_precision(autocast: bool) -> None:
    q, k, v = (x.transpose(1, 2) for x in halves(200))
    see_B1TS = torch.rand(2, 1, 5, 200, generator=torch.Generator().manual_seed(1)) < 0.8
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = masked(see_B1TS)(*halves(200))
    scores = ((q / 2) @ k.transpose(2, 3)).masked_fill(~see_B1TS, -torch.inf)
    expected = scores.float().softmax(-1).bfloat16() @ v
    assert torch.equal(found.transpose(1, 2), expected)


def test_scores_are_kept_for_gradients_in_bf16_of_few_keys_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elsewhere the fused kernel computes, bit for bit."""

    def read(*qkv: Tensor) -> Tensor:
        return masked(torch.ones(1, 1, 5, qkv[1].shape[1], dtype=torch.bool))(*qkv)

    few, many = halves(MOST_KEPT_KEYS), halves(MOST_KEPT_KEYS + 1)
    cases = {
        "few": few,
        "many": many,
        "without gradients": [x.detach() for x in few],
        "single precision": [x.detach().float().requires_grad_() for x in few],
    }
    found = {name: read(*qkv) for name, qkv in cases.items()}
    keeping(0, monkeypatch)
    fused = {name: read(*qkv) for name, qkv in cases.items()}
    assert [name for name in cases if not torch.equal(found[name], fused[name])] == ["few"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_attend_is_dense_to_1e_5_in_single_precision(pattern: Pattern) -> None:
    layout = layouts(Grid(12, 16), 9)["t2i"]
    qkv, valid = inputs(layout, batch=2, seed=0)
    single = [x.detach().float() for x in qkv]
    found = attend(pattern, layout, valid)(*single)
    expected = attend_dense(pattern, layout, valid)(*single)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("task", ["t2i", "i2t", "i2texts"])
def test_the_form_for_cuda_is_dense_attention(task: str, pattern: Pattern) -> None:
    """Forward only: on a CPU it has no gradients."""
    layout = layouts(Grid(7, 12), 5)[task]
    qkv, valid = inputs(layout, batch=2, seed=3)
    plain = [x.detach() for x in qkv]
    found = attend_flex(pattern, layout, valid)(*plain)
    assert torch.allclose(found, attend_dense(pattern, layout, valid)(*plain), atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("form", [attend, attend_flex])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_on_cuda_gradients_are_those_of_dense_attention(pattern: Pattern, form: Form) -> None:
    for layout in (layouts(Grid(32, 32), 9)[task] for task in ("t2i", "i2t")):
        _, valid = inputs(layout, batch=2, seed=0)
        generator = torch.Generator().manual_seed(0)
        shape = (3, 2, layout.length, 2, 64)
        qkv = torch.randn(shape, generator=generator).cuda().requires_grad_()
        upstream = torch.randn(shape[1:], generator=generator).cuda()
        found, expected = (
            torch.autograd.grad(read(*qkv), qkv, upstream)[0]
            for read in (f(pattern, layout, valid.cuda()) for f in (form, attend_dense))
        )
        assert torch.allclose(found, expected, atol=2e-3)


def test_masks_are_made_once_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that sampling made under inference mode serves a training too."""
    layout = layouts(Grid(6, 5), 4)["t2i"]
    qkv, valid = inputs(layout, batch=2, seed=0)
    for form in (attend, attend_dense):
        with torch.inference_mode():
            form(Pattern.ROW, layout, valid)
        monkeypatch.setattr(Layout, "sees", None)
        monkeypatch.setattr(Layout, "sees_by_role", None)
        form(Pattern.ROW, layout, ~valid)(*qkv).sum().backward()
        monkeypatch.undo()


@pytest.mark.parametrize(("pattern", "causal"), [*product(PATTERNS[:3], (True, False))])
def test_a_window_holds_every_key_once(pattern: Pattern, causal: bool) -> None:
    for height, width in GRIDS:
        grid = Grid(height, width)
        reach = window(pattern, width, causal=causal)
        cells = torch.arange(grid.num_cells)[None]
        groups = reach.group(cells, grid)
        assert torch.equal(reach.ungroup(groups), cells)
        keys_GS = torch.cat(reach.rows(groups, fill=-1), dim=2)[0]
        for row in keys_GS.tolist():
            on_grid = [cell for cell in row if cell >= 0]
            assert len({*on_grid}) == len(on_grid)
        num_keys = int(window_mask(pattern, grid, causal).sum())
        assert num_keys == int(mask(pattern, height, width, causal=causal).sum()), (height, width)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_empty_segment_is_nothing(pattern: Pattern) -> None:
    """At the end of a layout as at its beginning, and in both forms."""
    grid = Grid(2, 3)
    image, text = Segment(Modality.IMAGE, Role.SOURCE, 6), Segment(Modality.TEXT, Role.SOURCE, 2)
    empty = Segment(Modality.TEXT, Role.TARGET, 0)
    qkv, valid = inputs(Layout((image, text), grid), batch=2, seed=0)
    for form in (attend, attend_dense):
        expected = form(pattern, Layout((image, text), grid), valid)(*qkv)
        found = form(pattern, Layout((image, text, empty), grid), valid)(*qkv)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("task", ["t2i", "i2t"])
@pytest.mark.parametrize("pattern", PATTERNS[:3])
def test_no_tensor_as_large_as_all_scores_is_ever_made(pattern: Pattern, task: str) -> None:
    """In preparation or in reading, forward or backward: none has as many places as T x T."""
    # Many short rows, of which a window of eleven is a small part.
    layout = layouts(Grid(48, 12), 6)[task]
    counts: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            tensors = out if isinstance(out, tuple | list) else [out]
            counts.extend(x.numel() for x in tensors if isinstance(x, Tensor))
            return out

    qkv, valid = inputs(layout, batch=1, seed=0)
    window_mask.cache_clear()
    with Watch():
        attend(pattern, layout, valid)(*qkv).sum().backward()
    assert counts and max(counts) < layout.length**2


def test_masks_are_made_on_the_cpu_whatever_the_default_device_is() -> None:
    layout = layouts(Grid(3, 4), 2)["t2i"]
    window_mask.cache_clear()
    with torch.device("meta"):
        valid = torch.ones(1, layout.length, dtype=torch.bool)
        qkv = [torch.empty(1, layout.length, 2, 4) for _ in range(3)]
        for pattern, form in product(PATTERNS, (attend, attend_dense)):
            assert form(pattern, layout, valid)(*qkv).shape == qkv[0].shape
        assert window_mask(Pattern.ROW, layout.grid, True).device.type == "cpu"
