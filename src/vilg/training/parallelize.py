"""A generator's training over many devices: recomputed, compiled, sharded, offloaded. The model knows none of it.

Only a generator is large; what is trained beside it (image tokenizer, reconstructor, discriminator) is whole in
every process, and its gradients are summed (`optim.sum_gradients`). One process alone is the same code without
any of this. A generator is laid out before it has weights, and is then given them one by one, so that no process
ever holds more of them than its shard and one layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parametrize

from vilg.config import require
from vilg.model.attend import attend_flex
from vilg.model.generator import Generator, GeneratorConfig, first_weights
from vilg.model.lora import LoRAConfig, add_lora, first_adapter, lora_of
from vilg.model.transformer import Block
from vilg.parallel import is_first, num_processes
from vilg.progress import Progress
from vilg.training.shared_codes import SharedByCodes, share_codes

# Methods that training calls beside `forward`: each gathers weights as that does.
_DOORS = ("image_logits", "text_logits")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How a generator's training lies on devices. Nothing here changes what is learnt, and all may change on resume.

    Attributes:
        shard_over: processes that share one copy of weights, moments and averages, which should be those of a
            machine; there are as many copies as there are so many processes. 0 is all of them.
        recompute: compute each layer again in the backward pass: a third more work, a tenth of the memory.
        compile: compile each layer, which takes about a minute and pays in long runs.
        offload: keep weights, moments and averages in the host's memory, where they are updated too.
        auto: choose `recompute`, `offload` and `loop.accumulate` when the run starts, by what `vilg plan` finds
            best in the memory that is free; the run's config.json holds what was chosen.
    """

    shard_over: int = 0
    recompute: bool = False
    compile: bool = False
    offload: bool = False
    auto: bool = False

    def __post_init__(self) -> None:
        require(self.shard_over >= 0, "shard_over must be 0 or more")

    def check(self) -> None:
        """Refuse what these processes cannot do.

        Raises:
            SettingError: they do not divide, or there is nothing to offload from.
        """
        num, shards = num_processes(), self.shard_over or num_processes()
        require(
            num % shards == 0,
            f"{num} processes do not divide into groups of parallel.shard_over={shards}: change either",
        )
        require(
            dist.is_initialized() or not self.offload,
            "parallel.offload needs processes that torchrun has started, if only one",
        )


def build_generator(
    shape: GeneratorConfig,
    config: ParallelConfig,
    device: torch.device,
    *,
    bf16: bool = False,
    codebook_KD: Tensor | None = None,
    lora: LoRAConfig | None = None,
) -> Generator:
    """Build a generator for training, laid out over all processes; `fill` gives it its weights.

    Args:
        device: where this process computes.
        bf16: as `parallelize` has it.
        codebook_KD: of its image tokens on the device, to be learnt by what they share (`share_codes`).
        lora: of an adapter that alone is to learn; `first_adapter` has its weights.

    Raises:
        SettingError: as `ParallelConfig.check`.
    """
    with torch.device("meta"):
        generator = Generator(shape)
    if codebook_KD is not None:
        share_codes(generator, codebook_KD)
    if lora is not None:
        add_lora(generator, lora)
    parallelize(generator, config, device, bf16=bf16)
    place = torch.device("cpu") if config.offload else device
    # As `to_empty`, which would empty the codebook too.
    generator._apply(lambda x: torch.empty_like(x, device=place) if x.is_meta else x)  # type: ignore[no-untyped-call]
    return generator


@torch.no_grad()
def fill(generator: Generator, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give a generator all its weights by their names, of which each process keeps what it holds.

    Args:
        weights: whole, the same in every process; nothing is exchanged.
    """
    own = {
        name.replace(".parametrizations.weight.original", ".weight"): weight
        for name, weight in generator.named_parameters()
        if ".parametrizations.weight.0." not in name
    }
    num = len(own)
    with Progress("tensors", what="first weights") as progress:
        for done, (name, value) in enumerate(weights, start=1):
            weight = own.pop(name)
            if isinstance(weight, DTensor):
                mesh, places = weight.device_mesh, weight.placements
                shard = distribute_tensor(value, mesh, places, src_data_rank=None)
                weight.to_local().copy_(shard.to_local())
            else:
                weight.copy_(value)
            if is_first():
                progress(done, num)
    assert not own, f"no weights for {next(iter(own))}"


def draw_weights(generator: Generator, seed: int) -> None:
    """Give a generator its first weights, the same however it is laid out."""
    with torch.random.fork_rng(devices=()):  # the caller's random numbers stay as they were
        torch.default_generator.manual_seed(seed)
        fill(generator, chain(first_weights(generator.config), first_adapter(generator, seed)))


def parallelize(
    generator: Generator, config: ParallelConfig, device: torch.device, *, bf16: bool
) -> None:
    """Lay a generator out in place; its names, outputs and gradients stay what they are.

    Args:
        device: where this process computes.
        bf16: whether its products are computed so; layers then travel in half the bytes, but among CPUs.

    Raises:
        SettingError: as `ParallelConfig.check`.
    """
    config.check()
    for block in generator.transformer.blocks:
        assert isinstance(block, Block)
        block.recompute = config.recompute
        if config.compile:
            block.compile()
    if config.compile and device.type == "cuda":
        generator.form = attend_flex  # `bench/gpu.py` measures it against the other
    num = num_processes()
    if num == 1 and not config.offload:
        return
    shards = config.shard_over or num
    kind = device.type
    mesh = init_device_mesh(kind, (num // shards, shards), mesh_dim_names=("replicate", "shard"))
    offload = CPUOffloadPolicy(pin_memory=kind != "cpu") if config.offload else OffloadPolicy()
    # Norms and sums stay in fp32 under autocast, whatever the weights are.
    in_fp32 = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    in_bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in generator.transformer.blocks:
        # A CPU's norms want gains of fp32; elsewhere autocast sees to it.
        policy = in_bf16 if bf16 and kind != "cpu" else in_fp32
        _sum_gradients(fully_shard(block, mesh=mesh, mp_policy=policy, offload_policy=offload))
    _sum_gradients(fully_shard(generator, mesh=mesh, mp_policy=in_fp32, offload_policy=offload))
    for door in _DOORS:
        register_fsdp_forward_method(generator, door)


def _sum_gradients(module: FSDPModule) -> None:
    """Sum what processes reduce, since losses are divided by the whole batch's counts; not recursive."""
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # the factor alone asks gloo for what it lacks


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor that may be sharded as a whole one; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole(generator: Generator) -> Generator | None:
    """Return the generator unsharded, tensor by tensor, in the first process, and nothing in the others.

    One that is not sharded is returned as it is, everywhere but in other processes.
    """
    state = generator.state_dict()
    if not any(isinstance(value, DTensor) for value in state.values()):
        return generator if is_first() else None
    plain = _alike(generator) if is_first() else None
    targets = plain.state_dict() if plain is not None else {}
    for name, value in state.items():
        found = gathered(value)
        if plain is not None:
            targets[name].copy_(found)
    return plain


def _alike(generator: Generator) -> Generator:
    """Build a generator of the same tensors in this process's memory."""
    with torch.device("meta"):
        plain = Generator(generator.config)
    if parametrize.is_parametrized(generator.image_embedding):
        shared = generator.get_submodule("image_embedding.parametrizations.weight.0")
        assert isinstance(shared, SharedByCodes)
        share_codes(plain, shared.codebook_KD.to("meta"))
    if (lora := lora_of(generator)) is not None:
        add_lora(plain, lora)
    return plain.to_empty(device=generator.device).requires_grad_(False)
