"""What a training of a generator takes, before anything is made: bytes, operations, hours, and what follows.

Formulas, so that 10 billion parameters on 64 devices are planned on a laptop in a second; `bench/plan.py` holds
them against what is really allocated. Counted is what this code keeps in training: nothing is added for the
device's own context (about 1 GB with CUDA) nor for what an allocator loses, for which a tenth is left free. Of
an end-to-end run the reconstructor is not counted.

Letters: B sequences, T positions, C width, H heads, N image tokens, M text tokens, K codes, V words, L layers;
a is the bytes of a number in matrix products, 4 or 2; what passes between blocks always has 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate as cumulated
from typing import TextIO

import torch

from vilg.errors import VilgError, require
from vilg.model.attend import FEWEST_CELLS, MOST_KEPT_KEYS, window
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_layout,
    text_to_image_layout,
)
from vilg.model.patterns import Pattern, decode_window
from vilg.model.segments import Layout, Modality, Role
from vilg.parallel import least_over_processes, num_processes
from vilg.progress import say
from vilg.training.loop import TrainingPrecision
from vilg.training.memory import memory_of_device
from vilg.training.settings import GeneratorRun

# Under this many pairs at once, products have few rows, and sharded weights are gathered for little work: then
# computing twice is the lesser evil.
FEWEST_PAIRS = 4
LEFT_FREE = 0.1  # of a device's memory: what formulas and allocators may be wrong by


class DoesNotFit(VilgError):
    """No setting brings a training into the memory that there is."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of training as one device sees it.

    Attributes:
        drawn, described: sequences of each direction in a micro-batch.
        micro_batches: that a step has.
        shards: devices that weights, moments, averages and gradients are divided among.
        offload: these four lie in the host's memory, where the optimizer runs.
        on_cpu: few keys in bf16 have their scores kept there (`attend.masked`).
    """

    shape: GeneratorConfig
    drawn: int
    described: int
    texts_per_picture: int = 1
    micro_batches: int = 1
    precision: TrainingPrecision = TrainingPrecision.FP32
    recompute: bool = False
    shards: int = 1
    offload: bool = False
    on_cpu: bool = False

    @property
    def product_bytes(self) -> int:
        return 2 if self.precision is TrainingPrecision.BF16 else 4

    @property
    def layouts(self) -> tuple[tuple[int, Layout], ...]:
        """Both directions at the longest texts: sequences and positions, the one after the other."""
        M, grid = self.shape.max_text, self.shape.grid
        return (
            (self.drawn, text_to_image_layout(M, grid)),
            (self.described, image_to_text_layout(M, grid, self.texts_per_picture)),
        )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a device at the peak of a step, and of the host beside it.

    Attributes:
        weights, averages, moments, gradients: of a device's shard, wherever they lie.
        activations: what a forward pass keeps for its backward pass, in the larger of both directions.
        transient: the largest that comes and goes: gradients of logits, or one block's backward pass.
        gathered: weights of which a device has its shard only, while they are used; or rounded copies.
        peak: the most at any time. Less than the sum: gradients grow as activations go.
        host: what is offloaded.
    """

    weights: int
    averages: int
    moments: int
    gradients: int
    activations: int
    transient: int
    gathered: int
    peak: int
    host: int


def memory_of(step: Step) -> Memory:
    """Return what a step takes.

    Each direction is gone back through before the other one begins, and adds to its gradients. The backward pass
    frees activations layer by layer while gradients come; both are linear in the layers, so the peak is at an
    end: where it begins, or behind the last layer.
    """
    weights = _Weights.of(step.shape)
    a, shard = step.product_bytes, -(-weights.all // step.shards)
    kept = [B * _activations(step, layout) for B, layout in step.layouts]
    passing = [
        B * max(_transient(step, layout), _logits(step, layout)) for B, layout in step.layouts
    ]
    # Autocast keeps its rounded copies of matrices from first use to the backward pass.
    rounded = 0 if a == 4 else a
    if step.shards > 1:
        # FSDP2 (`training.parallelize`): what is outside the blocks stays gathered in fp32; a block and the next
        # one come and go, and a block's gradients exist whole in both forms until they are summed in fp32.
        gathered = 4 * weights.outside + rounded * weights.heads
        gathered += 2 * a * weights.block + (a + 4) * weights.block
    else:
        gathered = rounded * (weights.matrices + weights.heads)
    gradients = 4 * shard
    states = {"weights": 4 * shard, "averages": 4 * shard, "moments": 8 * shard}
    on_device = 0 if step.offload else 1
    grown = on_device * gradients
    has_earlier = step.micro_batches > 1 or (step.drawn > 0 and step.described > 0)
    # A table of words is used for a text and for the start token; the two gradients are then added.
    second = 2 * 4 * weights.largest
    peak = on_device * sum(states.values()) + max(
        grown * (step.micro_batches > 1) + kept[0] + passing[0] + gathered,
        grown * has_earlier + kept[1] + passing[1] + gathered,
        grown + second + (gathered if step.shards > 1 else 0),
    )
    return Memory(
        **states,
        gradients=gradients,
        activations=max(kept),
        transient=max(passing),
        gathered=gathered,
        peak=peak,
        host=sum(states.values()) + gradients if step.offload else 0,
    )


@dataclass(frozen=True)
class _Weights:
    """Numbers of weights: all, of one block, outside the blocks, in matrices of blocks and of heads, in the largest."""

    all: int
    block: int
    outside: int
    matrices: int
    heads: int
    largest: int

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, shape: GeneratorConfig) -> "_Weights":
        with torch.device("meta"):
            # Blocks are alike: of a thousand, one tells all.
            generator = Generator(replace(shape, patterns=shape.patterns[:1]))
        sizes = {name: weight.numel() for name, weight in generator.named_parameters()}
        block = sum(size for name, size in sizes.items() if ".blocks." in name)
        outside = sum(sizes.values()) - block
        return cls(
            all=outside + len(shape.patterns) * block,
            block=block,
            outside=outside,
            matrices=12 * len(shape.patterns) * shape.width**2,
            heads=(shape.num_codes + shape.vocabulary_size) * shape.width,
            largest=max(sizes.values()),
        )


def num_weights(shape: GeneratorConfig) -> int:
    return _Weights.of(shape).all


def _activations(step: Step, layout: Layout) -> int:
    """Return what one sequence keeps from its forward to its backward pass."""
    shape, a, T = step.shape, step.product_bytes, layout.length
    C = shape.width
    patterns = set(shape.patterns)
    if step.recompute:
        blocks = len(shape.patterns) * 4 * T * C  # of each its input
    else:
        blocks = sum(_block(step, layout, pattern) for pattern in shape.patterns)
    # Booleans, made once a pattern; every layer has its own in numbers beside, see `_attention`.
    masks = sum(pairs for pattern in patterns for _, _, pairs in _reads(layout, pattern))
    rows, classes = _targets(step, layout)
    # The last norm's input; the head's; log probabilities in fp32.
    head = T * (4 * C + 8) + a * rows * C + 4 * rows * classes
    return blocks + masks + head


def _block(step: Step, layout: Layout, pattern: Pattern) -> int:
    """Return what one block keeps of one sequence.

    | kept | by | bytes a position |
    | --- | --- | --- |
    | input, and input after attention | the two norms, with mean and deviation | 2 (4 C + 8) |
    | normalised, twice | qkv and mlp_in | 2 a C |
    | queries, keys, values | attention | 3 a C |
    | what was read | out | a C |
    | 4 C wide, before and after GELU | GELU and mlp_out | 8 a C |
    | with qk_norm: queries and keys in fp32 | the norms of heads, with a length a head | 8 C + 8 H in bf16 |
    | the same over their length | the norms of heads on a CPU | 8 C |
    | queries and keys behind these norms | fused attention; of copied keys the copies | 2 a C, or a C |
    """
    a, T, C = step.product_bytes, layout.length, step.shape.width
    position = 14 * a * C + 8 * C + 16
    if step.shape.qk_norm:
        position += 8 * step.shape.num_heads + (8 * C if a == 2 else 0) + 8 * C * step.on_cpu
    return T * position + _attention(step, layout, pattern)


def _attention(step: Step, layout: Layout, pattern: Pattern) -> int:
    """Return what a block's attention keeps of one sequence, beyond what `_block` lists.

    The mask in numbers of the products' kind, and a log sum a query and head; or, on a CPU in bf16, the weights of
    few keys. Groups of queries besides have their queries, keys and values copied, and what they read is joined
    from parts that fused attention keeps too; where it is nowhere used, the copies are all that is kept.
    """
    a, T, C, H = step.product_bytes, layout.length, step.shape.width, step.shape.num_heads
    is_grouped, qk_norm, kept, few = _is_grouped(layout, pattern), step.shape.qk_norm, 0, []
    for queries, keys, pairs in _reads(layout, pattern):
        is_few = step.on_cpu and a == 2 and pairs <= queries * MOST_KEPT_KEYS
        kept += a * H * pairs if is_few else a * pairs + 4 * H * queries
        if is_grouped:
            kept += a * C * (2 * keys + (queries if is_few else 2 * queries))
        few.append(is_few)
    if not all(few):
        kept += qk_norm * a * C * T * (1 if is_grouped else 2)
    if is_grouped and (all(few) or (qk_norm and a == 2)):
        kept -= 3 * a * C * T  # no view of what came out of qkv is left
    return kept


def _is_grouped(layout: Layout, pattern: Pattern) -> bool:
    return pattern is not Pattern.DENSE and layout.grid.num_cells >= FEWEST_CELLS


def _reads(layout: Layout, pattern: Pattern) -> Iterator[tuple[int, int, int]]:
    """Yield queries, copied keys, and pairs of the two, of each part that is read as one (`attend.attend`)."""
    T = layout.length
    if not _is_grouped(layout, pattern):
        yield T, 0, T * T
        return
    ends, cells = list(cumulated(layout.lengths)), layout.grid.num_cells
    for i, segment in enumerate(layout.segments):
        is_target = segment.role is Role.TARGET
        if segment.modality is Modality.TEXT:
            sources = [
                end for end, s in zip(ends, layout.segments, strict=True) if s.role is Role.SOURCE
            ]
            keys = ends[i] if is_target else max(sources)
            yield segment.length, keys, segment.length * keys
        else:
            reach = window(pattern, layout.grid.width, causal=is_target)
            side = layout.grid.height if reach.is_transposed else layout.grid.width
            texts = ends[i] - segment.length if is_target else 0
            seen = texts + len(reach.rows_up) * side
            yield cells, cells // side * seen, cells * seen


def _targets(step: Step, layout: Layout) -> tuple[int, int]:
    """Return how many positions of a sequence are scored, and among how many classes."""
    if layout.segments[-1].modality is Modality.IMAGE:
        return layout.grid.num_cells, step.shape.num_codes
    return step.texts_per_picture * step.shape.max_text, step.shape.vocabulary_size


def _logits(step: Step, layout: Layout) -> int:
    """Return what comes and goes where a sequence's backward pass begins.

    Gradients of log probabilities and of logits, in fp32.
    """
    rows, classes = _targets(step, layout)
    return 8 * rows * classes


def _transient(step: Step, layout: Layout) -> int:
    """Return what one block's backward pass adds for a sequence at its most; recomputed, the block as well.

    In the feed-forward network: gradients 4 C wide on both sides of GELU, while one of its two inputs is gone,
    and those of the stream. In attention: gradients of all copies and of what was read, when what the
    feed-forward network kept (9 a C + 4 C) is gone.
    """
    a, T, C = step.product_bytes, layout.length, step.shape.width
    most = 0
    for pattern in set(step.shape.patterns):
        copied = sum(keys for _, keys, _ in _reads(layout, pattern))
        feed_forward = T * C * (4 * a + 8)
        attention = a * C * (2 * copied + 4 * T) + 8 * T * C - T * C * (9 * a + 4)
        block = _block(step, layout, pattern) if step.recompute else 0
        most = max(most, block + max(feed_forward, attention))
    return most


def cache_of(shape: GeneratorConfig, number_bytes: int) -> tuple[int, int]:
    """Return the bytes of keys and values that a candidate holds while it is drawn, and those of its prompt.

    The candidates of a prompt share the second; guidance takes both a second time.
    """
    C, grid = shape.width, shape.grid
    slots = sum(decode_window(p, grid.height, grid.width).num_slots for p in shape.patterns)
    prompt = len(shape.patterns) * shape.max_text
    return 2 * C * number_bytes * slots, 2 * C * number_bytes * prompt


def operations_of(step: Step) -> float:
    """Return the multiplications and additions of one micro-batch: forward, and twice that backward.

    Matrix products of blocks and heads, and attention over what patterns let through. What `recompute` computes
    again does not count: a share of the peak is by what a step needs.
    """
    C, total = step.shape.width, 0.0
    for B, layout in step.layouts:
        rows, classes = _targets(step, layout)
        linear = len(step.shape.patterns) * 12 * C**2 * layout.length + C * classes * rows
        seen = {pattern: int(layout.visible(pattern).sum()) for pattern in set(step.shape.patterns)}
        scores = sum(2 * C * seen[pattern] for pattern in step.shape.patterns)
        total += 3 * 2.0 * B * (linear + scores)
    return total


def largest(whole: Step, memory: float) -> Step | None:
    """Return the step in the fewest equal micro-batches that fit into a device's bytes; None if one pair does not.

    Args:
        whole: all that a device sees in a step, as one micro-batch, and what it does to save memory.
    """
    for parts in range(1, max(whole.drawn, whole.described) + 1):
        if whole.drawn % parts or whole.described % parts:
            continue
        step = replace(
            whole,
            drawn=whole.drawn // parts,
            described=whole.described // parts,
            micro_batches=parts,
        )
        if memory_of(step).peak <= (1 - LEFT_FREE) * memory:
            return step
    return None


def savings(whole: Step) -> tuple[Step, ...]:
    """Return the step as it is, with `recompute`, and with `offload` too: each is slower than the one before."""
    return tuple(
        replace(whole, recompute=recompute, offload=offload)
        for recompute, offload in ((False, False), (True, False), (True, True))
        if not (offload and whole.on_cpu)  # whose memory is the host's
    )


def fit(whole: Step, memory: float) -> Step:
    """Return the step as it is best done: in the largest micro-batches, with as few savings as need be.

    Raises:
        DoesNotFit: nothing makes room for one pair.
    """
    for tried in savings(whole):
        step = largest(tried, memory)
        if step and (tried.recompute or step.micro_batches == 1 or step.drawn >= FEWEST_PAIRS):
            return step
    least = memory_of(replace(tried, drawn=1, described=1, micro_batches=2))
    raise DoesNotFit(
        f"a pair at a time takes {least.peak / 1e9:,.1f} GB whatever is saved, and a device has "
        f"{memory / 1e9:,.1f} GB, of which a tenth is left free: shard over more devices, or make it smaller"
    )


def settled(
    run: GeneratorRun, shape: GeneratorConfig, device: torch.device, log: TextIO
) -> GeneratorRun:
    """Return a run as it is best done by these processes, and say how.

    Raises:
        DoesNotFit, SettingError: as `fit` and `whole_step`.
    """
    num = num_processes()
    whole = whole_step(run, shape, num, run.parallel.shard_over or num)
    memory = least_over_processes(memory_of_device(device))
    step = fit(replace(whole, on_cpu=device.type == "cpu"), memory)
    say(f"auto: {advice(step)}, of {memory / 1e9:,.1f} GB for each process", log)
    chosen = {"recompute": step.recompute, "offload": step.offload, "auto": False}
    return replace(
        run,
        loop=replace(run.loop, accumulate=step.micro_batches),
        parallel=replace(run.parallel, **chosen),
    )


def advice(step: Step) -> str:
    """Say in a line how a step is done."""
    asked = [name for name in ("recompute", "offload") if getattr(step, name)]
    return (
        f"micro-batches of {max(step.drawn, step.described)}, accumulate={step.micro_batches}, "
        f"{' and '.join(asked) if asked else 'neither recompute nor offload'}"
    )


def whole_step(run: GeneratorRun, shape: GeneratorConfig, devices: int, shards: int) -> Step:
    """Return what one of so many devices sees of a run's step, in one micro-batch and without savings.

    Raises:
        SettingError: the batch does not divide among the devices, or these not into groups of `shards`.
    """
    require(
        devices % shards == 0, f"{devices} devices are not groups of {shards}: change the shards"
    )
    shares = (run.loss.text_to_image_share, run.loss.image_to_text_share)
    sequences = [max(1, round(share * run.loop.batch_size)) if share else 0 for share in shares]
    for number in sequences:
        require(
            number % devices == 0,
            f"{number} pairs a step do not divide among {devices} devices: change loop.batch_size",
        )
    return Step(
        shape=shape,
        drawn=sequences[0] // devices,
        described=sequences[1] // devices,
        texts_per_picture=run.loss.texts_per_picture,
        precision=run.loop.precision,
        shards=shards,
    )
