"""What a layout is, apart from what it computes (`test_two_processes.py`)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.training.conftest import SMALL_GENERATOR
from vilg.device import HOST
from vilg.errors import SettingError
from vilg.model.generator import Generator
from vilg.model.patterns import paper_patterns
from vilg.recipes.paper import base_10b
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.checkpoint import TrainState
from vilg.training.optim import build_optimizer
from vilg.training.parallelize import (
    ParallelConfig,
    build_generator,
    draw_weights,
    parallelize,
    whole,
)


@pytest.fixture
def as_one_of_64() -> Iterator[None]:
    """Be the first of 64 processes of which there is no other: for shapes alone."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=64)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("as_one_of_64")
def test_the_papers_model_lies_on_8_machines_of_8_devices() -> None:
    run = base_10b().generator
    assert run is not None
    with torch.device("meta"):
        generator = Generator(run.shape(VQGANConfig(), 20_000))
    names = [name for name, _ in generator.named_parameters()]
    num = sum(weight.numel() for weight in generator.parameters())
    assert 9e9 < num < 11e9
    parallelize(generator, run.parallel, HOST, bf16=True)
    assert [name for name, _ in generator.named_parameters()] == names
    weights = list(generator.parameters())
    assert all(isinstance(weight, DTensor) for weight in weights)
    local = sum(weight.to_local().numel() for weight in weights if isinstance(weight, DTensor))
    assert local == pytest.approx(num / 8, rel=1e-3)
    assert all(isinstance(block, FSDPModule) for block in generator.transformer.blocks)
    optimizer = build_optimizer(run.optim, generator)
    averages = {name: value.clone() for name, value in generator.state_dict().items()}
    tensors = TrainState(generator, averages, [optimizer]).tensors()
    # Weights, averages, two moments and a step count of each.
    assert len(tensors) == 5 * len(names)
    held = sum(t.to_local().numel() for t in tensors.values() if isinstance(t, DTensor))
    assert held == 4 * local


class Held(TorchDispatchMode):
    """Counts the bytes of real tensors that are made inside and live; `most` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.living: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            local = x.to_local() if isinstance(x, DTensor) else x
            if isinstance(local, Tensor) and not local.is_meta:
                storage = local.untyped_storage()
                self.living[StorageWeakRef(storage)] = storage.nbytes()
        self.living = {ref: size for ref, size in self.living.items() if not ref.expired()}
        self.most = max(self.most, sum(self.living.values()))
        return made


@pytest.mark.usefixtures("as_one_of_64")
def test_a_process_holds_its_shard_and_one_layer_while_weights_are_drawn() -> None:
    shape = replace(SMALL_GENERATOR, width=64, patterns=paper_patterns(8))
    with Held() as held:
        generator = build_generator(shape, ParallelConfig(shard_over=8), HOST)
        draw_weights(generator, seed=1)
    sizes = [4 * weight.numel() for weight in generator.parameters()]
    shard = sum(
        4 * weight.to_local().numel()
        for weight in generator.parameters()
        if isinstance(weight, DTensor)
    )
    assert shard <= sum(held.living.values()) < 1.05 * shard
    # One layer, its part that stays, and its bias.
    assert shard + max(sizes) < held.most < shard + 1.3 * max(sizes) < 0.4 * sum(sizes)


def test_first_weights_are_those_of_a_generator_that_is_built_at_once() -> None:
    torch.manual_seed(5)
    expected = Generator(SMALL_GENERATOR).state_dict()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    generator = build_generator(SMALL_GENERATOR, ParallelConfig(), HOST)
    draw_weights(generator, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    found = generator.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_one_process_stays_as_it_is() -> None:
    generator = Generator(SMALL_GENERATOR)
    parallelize(generator, ParallelConfig(recompute=True), HOST, bf16=False)
    assert not any(isinstance(weight, DTensor) for weight in generator.parameters())
    assert all(block.recompute for block in generator.transformer.blocks)
    assert whole(generator) is generator


@pytest.mark.usefixtures("as_one_of_64")
def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(SettingError, match=r"64 processes do not divide .*shard_over=6"):
        build_generator(SMALL_GENERATOR, ParallelConfig(shard_over=6), HOST)


def test_there_is_nothing_to_offload_from_without_torchrun() -> None:
    with pytest.raises(SettingError, match="torchrun"):
        ParallelConfig(offload=True).check()
