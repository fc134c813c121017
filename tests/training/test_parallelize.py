"""What a layout is, apart from what it computes (`test_two_processes.py`)."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.training.conftest import SMALL_GENERATOR
from vilg.errors import SettingError
from vilg.model.generator import Generator
from vilg.recipes.paper import base_10b
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.checkpoint import TrainState
from vilg.training.optim import build_optimizer
from vilg.training.parallelize import ParallelConfig, parallelize, whole


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
    parallelize(generator, run.parallel, bf16=True)
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


def test_one_process_stays_as_it_is() -> None:
    generator = Generator(SMALL_GENERATOR)
    parallelize(generator, ParallelConfig(recompute=True), bf16=False)
    assert not any(isinstance(weight, DTensor) for weight in generator.parameters())
    assert all(block.recompute for block in generator.transformer.blocks)
    assert whole(generator) is generator


@pytest.mark.usefixtures("as_one_of_64")
def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(SettingError, match=r"64 processes do not divide .*shard_over=6"):
        parallelize(Generator(SMALL_GENERATOR), ParallelConfig(shard_over=6), bf16=False)


def test_there_is_nothing_to_offload_from_without_torchrun() -> None:
    with pytest.raises(SettingError, match="torchrun"):
        ParallelConfig(offload=True).check()
