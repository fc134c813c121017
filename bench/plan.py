"""What `vilg plan` states against what a training step really takes (Linux).

    .venv/bin/python -m bench.plan          about five minutes; load on the machine disturbs times, not memory

Peak resident memory of a process that makes a generator, its averages and AdamW, and takes two steps in both
directions on texts of the longest length; less what the process had before. Three shapes on a CPU, with and
without recompute, in one micro-batch and in two. Writes its section of docs/benchmarks.md.

Blocks of 64 KiB and more go back to the system as soon as they are freed, so that what is taken is what is
in use. glibc by itself keeps some of it: 11% more at the first of these shapes.
"""

import os
from collections.abc import Callable
from dataclasses import replace

import torch

from bench.measure import machine, peak_bytes, publish, say, table
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_log_probs,
    text_to_image_log_probs,
)
from vilg.model.patterns import paper_patterns
from vilg.training.loop import TrainingPrecision
from vilg.training.optim import OptimConfig, build_optimizer, update_ema
from vilg.training.plan import Step, memory_of


def shape(width: int, layers: int, side: int, words: int, qk_norm: bool) -> GeneratorConfig:
    return GeneratorConfig(
        width=width,
        num_heads=width // 64,
        patterns=paper_patterns(layers),
        grid_height=side,
        grid_width=side,
        num_codes=words,
        vocabulary_size=words,
        qk_norm=qk_norm,
    )


WIDE = Step(shape=shape(768, 4, 8, 8192, False), drawn=16, described=16)
LONG = Step(shape=shape(256, 6, 32, 8192, False), drawn=4, described=4)
MIXED = replace(
    LONG, shape=shape(256, 6, 32, 2048, True), precision=TrainingPrecision.BF16, on_cpu=True
)
CASES = {
    "64 image tokens, width 768": WIDE,
    "1,024 image tokens, width 256": LONG,
    "the same with qk_norm, bf16": MIXED,
}


def train(step: Step) -> None:
    """Make a generator and take two steps."""
    torch.manual_seed(0)
    config = step.shape
    generator, optim = Generator(config), OptimConfig()
    for block in generator.transformer.blocks:
        block.recompute = step.recompute
    averages = {name: value.clone() for name, value in generator.state_dict().items()}
    optimizer = build_optimizer(optim, generator)
    text = list(range(6, 5 + config.max_text))
    for i in range(2):
        for _ in range(step.micro_batches):
            images = torch.randint(config.num_codes, (step.drawn, config.grid.num_cells))
            with torch.autocast("cpu", torch.bfloat16, enabled=step.product_bytes == 2):
                drawn = text_to_image_log_probs(generator, [[*text, 5]] * step.drawn, images)
                loss = -drawn.mean()
            loss.backward()
            del drawn, loss
            with torch.autocast("cpu", torch.bfloat16, enabled=step.product_bytes == 2):
                described, counts = image_to_text_log_probs(
                    generator, images, [4] * step.described, [text] * step.described
                )
                loss = -described.sum() / counts.sum()
            loss.backward()
            del described, loss
        torch.nn.utils.clip_grad_norm_(generator.parameters(), optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(averages, generator, optim.ema_decay, i)


def prepared(step: Step) -> Callable[[], None]:
    """Return the case, after a small one that loads what the first step of a process loads."""
    small = replace(step.shape, width=64, num_heads=1, num_codes=16, vocabulary_size=100)
    train(replace(step, shape=small, drawn=1, described=1))
    return lambda: train(step)


def main() -> None:
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 * 1024)  # of the measured processes
    rows = []
    for name, whole in CASES.items():
        for recompute in (False, True):
            for parts in (1, 2):
                step = replace(
                    whole,
                    recompute=recompute,
                    micro_batches=parts,
                    drawn=whole.drawn // parts,
                    described=whole.described // parts,
                )
                stated, found = memory_of(step).peak, peak_bytes(prepared, step)
                row = [name, "yes" if recompute else "no", str(parts)]
                row += [f"{x / 2**20:,.0f} MiB" for x in (stated, found)]
                rows.append([*row, f"{stated / found:.2f}"])
                say(" | ".join(rows[-1]))
    header = ["shape", "recompute", "micro-batches", "stated", "taken", "stated / taken"]
    publish("plan", f"Machine: {machine()}.\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
