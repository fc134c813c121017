"""A run on two processes is a run on one: losses, gradients, codebook counts, restarts, weights.

Both are what a user runs: `train()`, broken off after its first checkpoint, resumed to the end. Each
process has a folder of its own.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from tests.training.conftest import (
    JOBS,
    checkpoint_bytes,
    finish,
    forking,
    log_records,
    train_until,
)
from vilg.training.loop import LoopConfig, TrainingPrecision

NUM_STEPS = (
    3  # the adversarial term joins at the second; codes have died and restarted by the third
)

Everywhere = Callable[..., list[Any]]


def join(rank: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{meeting}", timedelta(seconds=60), world_size=2, rank=rank
    )


def leave() -> None:
    dist.barrier()  # a process that leaves while the other still talks may take gloo's threads down
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def on_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everywhere]:
    """Run a function in two processes that know each other: the same two for all tests.

    They begin at once, while the first test trains in this one.
    """
    context = forking()
    meeting = tmp_path_factory.mktemp("processes") / "meeting"
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, join, (rank, meeting)))
            for rank in range(2)
        ]
        for pool in pools:
            pool.submit(dist.get_rank)

        def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            futures = [pool.submit(function, *arguments) for pool in pools]
            return [future.result(timeout=120) for future in futures]

        yield call
        call(leave)


def run(kind: str, precision: TrainingPrecision, parent: Path) -> Path:
    """Train in two goes; return the folder, with the first checkpoint kept under `first`."""
    folder = parent / (f"rank{dist.get_rank()}" if dist.is_initialized() else "alone")
    loop = LoopConfig(
        num_steps=NUM_STEPS, batch_size=4, log_every=1, save_every=1, precision=precision
    )
    train_until(1, kind, loop, folder, resume=False)
    shutil.copytree(folder / "checkpoints" / "step-00000001", folder / "first")
    finish(kind, loop, folder, resume=True)
    return folder


def differences(found: Path, expected: Path) -> dict[str, float]:
    """Return how far each tensor of a file is from another's, relative to its length."""
    a, b = load_file(found), load_file(expected)
    assert a.keys() == b.keys()
    return {
        name: float(
            torch.dist(a[name].double(), value.double()) / value.double().norm().clamp_min(1e-9)
        )
        for name, value in b.items()
    }


CASES = [(kind, TrainingPrecision.FP32) for kind in (*JOBS, "decoder", "shared_codes")] + [
    (kind, TrainingPrecision.BF16) for kind in ("tokenizer", "decoder", "generator", "end_to_end")
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_two_processes_equal_one(
    on_both: Everywhere, kind: str, precision: TrainingPrecision, tmp_path: Path
) -> None:
    alone = run(kind, precision, tmp_path)
    first, second = on_both(run, kind, precision, tmp_path)
    # Catches whatever a process computes of its own share and does not share.
    assert log_records(first) == log_records(second)
    assert checkpoint_bytes(first) == checkpoint_bytes(second)

    # The first moments after a step are a tenth of its gradients: catches a wrong mean, share or order.
    exact = (
        precision is TrainingPrecision.FP32
    )  # else each process rounds its part of a sum to 8 bits
    moved = differences(
        first / "first/optimizer.safetensors", alone / "first/optimizer.safetensors"
    )
    gradients = {name: far for name, far in moved.items() if name.endswith("exp_avg")}
    assert gradients and max(gradients.values()) < (1e-5 if exact else 1e-2)

    records = list(zip(log_records(first), log_records(alone), strict=True))
    assert [record["step"] for record, _ in records] == list(range(1, NUM_STEPS + 1))
    for found, expected in records if exact else records[:1]:
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"alarm"}:
            tolerance = (1e-5 if found["step"] == 1 else 1e-4) if exact else 0.05
            assert found[name] == pytest.approx(expected[name], rel=tolerance, abs=1e-6), name
    if kind in ("tokenizer", "adversarial"):
        assert sum(record["restarts"] for record, _ in records) > 0
    if (
        exact
    ):  # Adam turns a last digit of a gradient near zero, as of keys' biases, into a full step
        last = "checkpoints/step-00000003/weights.safetensors"
        assert max(differences(first / last, alone / last).values()) < 1e-3
