"""What only a CUDA device can tell: training and drawing at the paper's sizes, speed and memory, in one table.

    runs/gpu_check.sh            under four minutes on a GPU of 40 GB or more; prints, writes nothing
    runs/gpu_check.sh --dry      toys on the CPU, which prove that the script runs and nothing else

Share of the peak is that of what a step needs (`plan.operations_of`), against the matrix product of two large
square matrices in bf16 on the same device in the same minute.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor

from bench.measure import table
from vilg.model.attend import Form, attend, attend_flex
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_log_probs,
    text_to_image_log_probs,
)
from vilg.recipes.paper import base_10b, lite_300m
from vilg.sampling.images import draw_images
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.loop import TrainingPrecision
from vilg.training.optim import OptimConfig, build_optimizer, update_ema
from vilg.training.plan import Step, memory_of, operations_of

NUM_WORDS = 8283  # of the shipped vocabulary


@dataclass(frozen=True)
class Sizes:
    """What is measured, and on what."""

    device: torch.device
    lite: GeneratorConfig
    block: GeneratorConfig
    pairs: int
    drawn: tuple[int, ...]
    product: int
    rounds: int

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def sizes(dry: bool) -> Sizes:
    """Return lite_300m and one block of base_10b on a CUDA device, or toys on the CPU."""
    shapes = []
    for recipe in (lite_300m(), base_10b()):
        assert recipe.generator is not None
        shapes.append(recipe.generator.shape(VQGANConfig(), NUM_WORDS))
    lite, base = shapes
    block = replace(base, patterns=base.patterns[:1])
    if not dry:
        return Sizes(torch.device("cuda"), lite, block, 8, (1, 16, 64), 8192, 5)
    toy = replace(
        lite, width=64, num_heads=2, patterns=lite.patterns[-2:], grid_height=4, grid_width=4,
        num_codes=32, max_text=8,
    )  # fmt: skip
    return Sizes(
        torch.device("cpu"), toy, replace(toy, patterns=toy.patterns[:1]), 2, (1, 2), 64, 1
    )


def seconds(case: Callable[[], object], size: Sizes) -> float:
    """Return the median of some rounds, after one that warms up."""
    taken = []
    for _ in range(size.rounds + 1):
        size.wait()
        started = time.perf_counter()
        case()
        size.wait()
        taken.append(time.perf_counter() - started)
    return sorted(taken[1:])[size.rounds // 2]


def peak(size: Sizes) -> float:
    """Return operations a second of a matrix product in bf16."""
    a, b = torch.randn(2, size.product, size.product, device=size.device, dtype=torch.bfloat16)
    return 2 * size.product**3 / seconds(lambda: a @ b, size)


def training_step(
    size: Sizes, shape: GeneratorConfig, form: Form, *, compile: bool, recompute: bool
) -> Callable[[], None]:
    """Return a step in both directions: bf16 products, AdamW, moving averages."""
    torch.manual_seed(0)
    optim = OptimConfig()
    with size.device:
        generator = Generator(shape)
    generator.form = form
    for block in generator.transformer.blocks:
        block.recompute = recompute
        if compile:
            block.compile(dynamic=False)
    averages = {name: value.clone() for name, value in generator.state_dict().items()}
    optimizer = build_optimizer(optim, generator)
    texts = [list(range(6, 5 + shape.max_text))] * size.pairs
    images = torch.randint(shape.num_codes, (size.pairs, shape.grid.num_cells), device=size.device)

    def step() -> None:
        with torch.autocast(size.device.type, torch.bfloat16):
            drawn = text_to_image_log_probs(generator, [[*text, 5] for text in texts], images)
        (-drawn.mean()).backward()
        with torch.autocast(size.device.type, torch.bfloat16):
            described, _ = image_to_text_log_probs(generator, images, [4] * size.pairs, texts)
        (-described.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        update_ema(averages, generator, optim.ema_decay, 0)

    return step


def training(size: Sizes, name: str, shape: GeneratorConfig, bf16_peak: float) -> list[list[str]]:
    """Measure a step as it is, recomputed, and compiled with each form of attention."""
    ways = {
        "as it is": (attend, False, False),
        "recompute": (attend, False, True),
        "compiled": (attend, True, False),
        "compiled, FlexAttention": (attend_flex, True, False),
    }
    if size.device.type == "cpu":  # no gradients of FlexAttention, and perhaps no compiler
        ways = dict(list(ways.items())[:2])
    rows = []
    for way, (form, compile, recompute) in ways.items():
        plan = Step(
            shape=shape,
            drawn=size.pairs,
            described=size.pairs,
            precision=TrainingPrecision.BF16,
            recompute=recompute,
            on_cpu=size.device.type == "cpu",
        )
        stated, found = memory_of(plan).peak, 0
        if size.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(
            training_step(size, shape, form, compile=compile, recompute=recompute), size
        )
        if size.device.type == "cuda":
            found = torch.cuda.max_memory_allocated()
        positions = sum(B * layout.length for B, layout in plan.layouts)
        share = operations_of(plan) / taken / bf16_peak
        memory = f"{stated / 1e9:.2f} / {found / 1e9:.2f} GB" if found else "not on a CPU"
        rows.append([f"{name}, {way}", f"{positions / taken:,.0f}", f"{share:.0%}", memory])
    return rows


@torch.inference_mode()
def drawing(size: Sizes) -> list[list[str]]:
    """Measure whole pictures of lite_300m in bf16, each step as one launch and operation by operation."""
    torch.manual_seed(0)
    with size.device:
        generator = Generator(size.lite).bfloat16().eval()
    prompt = list(range(6, 6 + size.lite.max_text // 2))
    once, rows = replace(size, rounds=1), []
    for number in size.drawn:

        def case(number: int = number) -> Tensor:
            return draw_images(generator, [prompt], range(number), SamplingConfig()).image_ids_BN

        total = number * size.lite.grid.num_cells
        rates = [total / seconds(case, once)]
        with patch("vilg.sampling.decode.can_record", return_value=False):
            rates.append(total / seconds(case, once))
        for rate, way in zip(rates, ("as graphs", "without graphs"), strict=True):
            rows.append([f"lite_300m, drawing {number} at once, {way}", f"{rate:,.0f}", "", ""])
    return rows


def main(argv: Sequence[str]) -> None:
    dry = "--dry" in argv
    if not dry and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here: runs/gpu_check.sh --dry runs the same on toys")
    size = sizes(dry)
    name = "a CPU, toys only" if dry else torch.cuda.get_device_name()
    bf16_peak = peak(size)
    rows = training(size, "lite_300m", size.lite, bf16_peak)
    rows += training(size, "one base_10b block", size.block, bf16_peak)
    rows += drawing(size)
    print(f"{name}, torch {torch.__version__}, bf16 products {bf16_peak / 1e12:,.1f} TFLOP/s\n")
    print(table(["", "positions or image tokens/s", "share of the peak", "stated / taken"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
