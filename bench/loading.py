"""What loading and saving a model takes of memory, at its peak.

    python -m bench.loading      a minute; 4 GB of memory and 3 GB of disk

A generator of the paper's ablation size, 24 layers of width 1,024, beside the shipped tokenizers. Each case in a
process of its own. Writes its section of docs/benchmarks.md.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bench.measure import machine, peak_bytes, publish, table
from vilg.model.folder import SHIPPED, load_model, save_model
from vilg.model.generator import Generator
from vilg.model.patterns import paper_patterns
from vilg.model.weights import DTYPES, SHARD_BYTES

SMALL_SHARD = 100 * 10**6


def write_folders(folder: Path) -> int:
    """Write the model in every precision, and return how many weights its generator has."""
    shipped = load_model(SHIPPED)
    assert shipped.generator is not None
    config = replace(
        shipped.generator.config, width=1024, num_heads=16, patterns=paper_patterns(24)
    )
    with torch.device("meta"):
        shape = Generator(config)
    generator = shape.to_empty(device="cpu")
    for weight in generator.parameters():
        nn.init.ones_(weight)
    for name, dtype in DTYPES.items():
        model = replace(shipped, generator=generator, stored_as=dtype)
        save_model(folder / name, model, shard_bytes=SMALL_SHARD)
        save_model(folder / f"{name}-alone", model)
    return sum(weight.numel() for weight in generator.parameters())


def loading(folder: Path, dtype: torch.dtype) -> Callable[[], object]:
    load_model(SHIPPED)  # what the first one brings in for good
    return lambda: load_model(folder, dtype=dtype)


def saving(folder: Path, shard_bytes: int) -> Callable[[], object]:
    model = load_model(folder)
    save_model(folder / "shipped", load_model(SHIPPED))
    return lambda: save_model(folder / "again", model, shard_bytes=shard_bytes)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        num_weights = write_folders(folder)
        for name, memory in (("fp16", "fp32"), ("fp32", "fp32"), ("bf16", "bf16")):
            dtype = DTYPES[memory]
            for files, what in (("", "shards of 0.1 GB"), ("-alone", "one file")):
                peak = peak_bytes(loading, folder / f"{name}{files}", dtype)
                held = num_weights * dtype.itemsize
                case = f"loading {name} into {memory}, {what}"
                rows.append([case, f"{held / 1e9:.2f}", f"{peak / 1e9:.2f}"])
        for shard_bytes, what in ((SMALL_SHARD, "shards of 0.1 GB"), (SHARD_BYTES, "one file")):
            peak = peak_bytes(saving, folder / "fp16", shard_bytes)
            rows.append([f"saving fp32 in fp16, {what}", "0", f"{peak / 1e9:.2f}"])
    text = table(["", "weights that it leaves in memory, GB", "growth at its peak, GB"], rows)
    publish(
        "loading",
        f"Machine: {machine()}. A generator of {num_weights / 1e6:.0f} M weights.\n\n{text}",
    )


if __name__ == "__main__":
    main()
