"""Blocks: what recomputing keeps and gives, and that each compiles to one graph."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from vilg.model.attend import Read, attend, attend_dense
from vilg.model.generator import image_to_text_layout, text_to_image_layout
from vilg.model.patterns import Pattern
from vilg.model.segments import Grid
from vilg.model.transformer import Block, Transformer

GRID = Grid(4, 4)
LAYOUTS = [text_to_image_layout(3, GRID), image_to_text_layout(3, GRID)]
PATTERNS = [Pattern.ROW, Pattern.COLUMN, Pattern.CONVOLUTION]


def seeded(module: nn.Module) -> nn.Module:
    """Return the module with weights large enough for scores to differ."""
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2, generator=generator)
    return module


def reads(form: Callable[..., Read]) -> Iterator[tuple[Read, Tensor]]:
    """Yield how each pattern reads either direction, and states to read from."""
    for layout in LAYOUTS:
        for pattern in PATTERNS:
            valid = torch.ones(2, layout.length, dtype=torch.bool)
            generator = torch.Generator().manual_seed(1)
            states = torch.randn(2, layout.length, 32, generator=generator, requires_grad=True)
            yield form(pattern, layout, valid), states


def test_recomputing_changes_no_gradient_and_no_name() -> None:
    transformer = seeded(Transformer(2, 32, 2, qk_norm=True))
    names = [name for name, _ in transformer.named_parameters()]
    for read, states in reads(attend):
        found = []
        for recompute in (False, True):
            for block in transformer.blocks:
                block.recompute = recompute
            loss = transformer(states, [read, read]).square().sum()
            found.append(torch.autograd.grad(loss, [states, *transformer.parameters()]))
        assert all(map(torch.equal, *found))
    assert [name for name, _ in transformer.named_parameters()] == names


def test_recomputing_keeps_nothing_but_the_input() -> None:
    block = seeded(Block(32, 2, qk_norm=False))
    read, states = next(reads(attend))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        block(states, read)
        assert len(kept) > 10
        kept.clear()
        block.recompute = True
        block(states, read)
    assert [x.data_ptr() for x in kept] == [states.data_ptr()]
    with torch.no_grad():
        block(states, read)  # nothing to go back through: plainly computed


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("form", "num_shapes"), [(attend, 6), (attend_dense, 2)])
def test_a_block_is_one_graph(form: Callable[..., Read], num_shapes: int, recompute: bool) -> None:
    """One a pattern and direction, and none more when masks are made anew; of dense ones, one a direction."""
    block = seeded(Block(32, 2, qk_norm=True))
    block.recompute = recompute
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=False)
    for _ in range(2):
        for read, states in reads(form):
            made, expected = compiled(states, read), block(states, read)
            assert torch.equal(made, expected)
            grads = [torch.autograd.grad(x.square().sum(), states)[0] for x in (made, expected)]
            assert torch.allclose(*grads, atol=1e-5)
    assert len(graphs) == num_shapes
