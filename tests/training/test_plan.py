"""What a step is planned to take against what autograd really keeps, and what follows from it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vilg.errors import SettingError
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_log_probs,
    text_to_image_log_probs,
)
from vilg.model.patterns import Pattern, paper_patterns
from vilg.recipes.paper import base_10b, lite_300m
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.loop import TrainingPrecision
from vilg.training.plan import (
    LEFT_FREE,
    DoesNotFit,
    Step,
    cache_of,
    fit,
    memory_of,
    num_weights,
    operations_of,
    savings,
    whole_step,
)
from vilg.training.settings import Recipe


def shape(side: int, *, qk_norm: bool = False) -> GeneratorConfig:
    return GeneratorConfig(
        width=64,
        num_heads=2,
        patterns=paper_patterns(4),
        grid_height=side,
        grid_width=side,
        num_codes=100,
        vocabulary_size=200,
        max_text=19,
        qk_norm=qk_norm,
    )


def kept_bytes(step: Step) -> int:
    """Return the bytes of all that autograd keeps of a step in one direction, but for weights."""
    generator, config = Generator(step.shape), step.shape
    for block in generator.transformer.blocks:
        block.recompute = step.recompute
    sizes = {weight.shape for weight in generator.parameters()}
    sizes |= {weight.T.shape for weight in generator.parameters() if weight.ndim == 2}
    kept: dict[int, Tensor] = {}

    def note(x: Tensor) -> Tensor:
        # Autocast rounds weights, and the copies have their sizes.
        if not isinstance(x, nn.Parameter) and x.shape not in sizes:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    text = list(range(6, 5 + config.max_text))
    ids = torch.zeros(step.drawn, config.grid.num_cells, dtype=torch.long)
    bf16 = step.precision is TrainingPrecision.BF16
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        if step.drawn:
            text_to_image_log_probs(generator, [[*text, 5]] * step.drawn, ids)
        else:
            images = ids.new_zeros(step.described, config.grid.num_cells)
            num = step.described
            image_to_text_log_probs(generator, images, [4] * num, [text] * num)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", TrainingPrecision)
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("side", [5, 24])
@pytest.mark.parametrize("way", [0, 1])
def test_activations_are_what_autograd_keeps(
    way: int, side: int, qk_norm: bool, precision: TrainingPrecision, recompute: bool
) -> None:
    """Attention in its dense form and in groups. Masks are no tensors of autograd's, and are some percent here."""
    step = Step(
        shape=shape(side, qk_norm=qk_norm),
        drawn=2 * (way == 0),
        described=2 * (way == 1),
        precision=precision,
        recompute=recompute,
        on_cpu=True,
    )
    stated = memory_of(step).activations
    masks = 2 * 3 * step.layouts[way][1].length ** 2 if side == 5 else 0
    if side == 24:
        # Rows of 24 cells under two, one and six rows of keys; the texts under all before them.
        causal = 19 * 19 + 20 + 576 * 20, 19 * 595
        cells = {
            Pattern.ROW: (48, 24),
            Pattern.COLUMN: (24, 24),
            Pattern.CONVOLUTION: (6 * 24, 11 * 24),
        }
        masks = 2 * sum(causal[way] + 576 * seen[way] for seen in cells.values())
    assert stated - masks == pytest.approx(kept_bytes(step), rel=0.03)


def test_weights_moments_averages_and_gradients_are_counted_to_the_byte() -> None:
    config = shape(5)
    count = sum(weight.numel() for weight in Generator(config).parameters())
    assert num_weights(config) == count
    memory = memory_of(Step(shape=config, drawn=1, described=1))
    assert (memory.weights, memory.averages) == (4 * count, 4 * count)
    assert (memory.moments, memory.gradients) == (8 * count, 4 * count)
    assert memory.peak > 20 * count
    divided = memory_of(Step(shape=config, drawn=1, described=1, shards=4, offload=True))
    assert divided.weights == -(-count // 4) * 4
    assert (
        divided.host
        == 5 * divided.weights
        > memory_of(Step(shape=config, drawn=1, described=1)).host
    )


def test_operations_are_six_a_weight_and_position_and_those_of_attention() -> None:
    """By hand: one dense layer of width 8, 2 x 2 cells, texts of 3 tokens."""
    config = GeneratorConfig(
        width=8,
        num_heads=1,
        patterns=(Pattern.DENSE,),
        grid_height=2,
        grid_width=2,
        num_codes=10,
        vocabulary_size=20,
        max_text=3,
    )
    linear = 12 * 8 * 8 * (8 + 7) + 8 * 10 * 4 + 8 * 20 * 3
    drawn = 3 * 3 + 4 + (5 + 6 + 7 + 8)  # texts read each other; start; cells, each one more
    described = 4 * 4 + (5 + 6 + 7)
    found = operations_of(Step(shape=config, drawn=1, described=1))
    assert found == 6 * (linear + 2 * 8 * (drawn + described))


def test_a_cache_holds_what_patterns_reach_back_to() -> None:
    run = lite_300m().generator
    assert run is not None
    config = run.shape(VQGANConfig(), 8283)
    slots = 17 * 33 + 6 * 1024 + 5 * 32 + 6  # rows, columns, the convolution
    assert cache_of(config, 2) == (2 * 2 * 1024 * slots, 2 * 2 * 1024 * 24 * 64)


def test_the_largest_micro_batch_fits_and_no_larger_one_does() -> None:
    whole = Step(shape=shape(24), drawn=24, described=24)
    alone = memory_of(replace(whole, drawn=8, described=8, micro_batches=3)).peak
    step = fit(whole, alone / (1 - LEFT_FREE) + 1)
    assert (step.drawn, step.micro_batches, step.recompute, step.offload) == (8, 3, False, False)
    step = fit(whole, alone / (1 - LEFT_FREE) - 1)
    assert (step.drawn, step.micro_batches, step.recompute) == (6, 4, False)
    # Too little for four at once: computing twice makes room.
    few = memory_of(replace(whole, drawn=3, described=3, micro_batches=8)).peak
    step = fit(whole, few / (1 - LEFT_FREE) + 1)
    assert step.recompute and not step.offload and step.drawn > 3
    least = memory_of(replace(savings(whole)[2], drawn=1, described=1, micro_batches=24)).peak
    step = fit(whole, least / (1 - LEFT_FREE) + 1)
    assert step.offload and step.drawn == 1
    with pytest.raises(DoesNotFit, match=r"shard over more devices"):
        fit(whole, least / (1 - LEFT_FREE) - 1)


@pytest.mark.parametrize(
    ("recipe", "devices", "accumulate"),
    [
        (lite_300m, 1, 8),
        (lite_300m, 8, 1),
        (lite_300m, 64, 1),
        (base_10b, 8, 32),
        (base_10b, 64, 4),
    ],
)
def test_recipes_are_laid_out_as_is_best_on_devices_of_80_gb(
    recipe: Callable[[], Recipe], devices: int, accumulate: int
) -> None:
    """What their tables and docs/scale.md say."""
    run = recipe().generator
    assert run is not None
    config = run.shape(VQGANConfig(), 8283)
    step = fit(whole_step(run, config, devices, min(8, devices)), 80e9)
    assert step.micro_batches == accumulate
    assert (step.recompute, step.offload) == (run.parallel.recompute, False)
    if devices == (64 if recipe is base_10b else 8):
        assert run.loop.accumulate == accumulate


def test_a_part_of_a_batch_is_what_a_device_sees() -> None:
    run = base_10b().generator
    assert run is not None
    config = run.shape(VQGANConfig(), 8283)
    step = whole_step(run, config, devices=64, shards=8)
    assert (step.drawn, step.described, step.shards) == (96, 96, 8)
    with pytest.raises(SettingError, match=r"^6144 pairs a step do not divide among 7 devices"):
        whole_step(run, config, devices=7, shards=7)
    with pytest.raises(SettingError, match=r"^12 devices are not groups of 8"):
        whole_step(run, config, devices=12, shards=8)
