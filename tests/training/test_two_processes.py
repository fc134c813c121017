"""A run on several processes is a run on one: losses, gradients, codebook counts, restarts, weights.

All are what a user runs: `train()` over ten steps, into one folder. A pool of processes is started once; those that
a test needs meet anew for it.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.training.conftest import (
    JOBS,
    OPTIM,
    PLAIN,
    finish,
    forking,
    log_records,
    make_job,
    read_checkpoint,
    train_until,
)
from vilg.training import loop as training_loop
from vilg.training import parallelize
from vilg.training.generator_job import GeneratorJob
from vilg.training.loop import LoopConfig, TrainingPrecision, train
from vilg.training.parallelize import ParallelConfig, whole

NUM_PROCESSES = 4
# The adversarial term joins at the second step; codes have died and restarted by the third.
LOOP = LoopConfig(num_steps=10, batch_size=8, log_every=1, save_every=9)

Together = Callable[..., list[Any]]


def one_of(
    rank: int, world: int, meeting: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    """Run a function in one of several processes that know each other; alone, in one that knows none."""
    torch.set_num_threads(1)
    if world == 1:
        return function(*arguments)
    dist.init_process_group(
        "gloo", f"file://{meeting}", timedelta(seconds=60), world_size=world, rank=rank
    )
    try:
        found = function(*arguments)
        dist.barrier()  # a process that leaves while another still talks may take gloo's threads down
        return found
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """Call a function in so many processes at once; returns what each has found."""
    context, numbers = forking(), count()
    meetings = tmp_path_factory.mktemp("processes")
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, context)) for _ in range(NUM_PROCESSES)]
        for pool in pools:
            pool.submit(torch.get_num_threads)  # they begin at once

        def call(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
            meeting = meetings / f"{next(numbers)}"
            futures = [
                pools[rank].submit(one_of, rank, world, meeting, function, arguments)
                for rank in range(world)
            ]
            return [future.result(timeout=240) for future in futures]

        yield call


@dataclass(frozen=True)
class Layout:
    """How a run is spread."""

    world: int
    accumulate: int = 1
    parallel: ParallelConfig = PLAIN
    precision: TrainingPrecision = TrainingPrecision.FP32


def run(kind: str, layout: Layout, folder: Path) -> None:
    """Train, and keep the first step's checkpoint apart, whose first moments are a tenth of its gradients."""
    loop = replace(LOOP, accumulate=layout.accumulate, precision=layout.precision)
    first = replace(loop, save_every=1)
    train_until(1, kind, first, folder / "first", False, layout.parallel)
    finish(kind, loop, folder, parallel=layout.parallel)


def differences(found: Path, expected: Path, part: str, tail: str = "") -> dict[str, float]:
    """Return how far each tensor of a checkpoint is from another's, relative to its length."""
    a, b = read_checkpoint(found), read_checkpoint(expected)
    assert a.keys() == b.keys()
    return {
        name: float(
            torch.dist(a[name].double(), value.double()) / value.double().norm().clamp_min(1e-9)
        )
        for name, value in b.items()
        if name.startswith(part) and name.endswith(tail)
    }


@pytest.fixture(scope="module")
def alone(together: Together, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a run in one process, which is made once."""
    made: dict[tuple[str, TrainingPrecision], Path] = {}

    def find(kind: str, precision: TrainingPrecision = TrainingPrecision.FP32) -> Path:
        if (kind, precision) not in made:
            made[kind, precision] = tmp_path_factory.mktemp(kind)
            layout = Layout(1, precision=precision)
            together(1, run, kind, layout, made[kind, precision])
        return made[kind, precision]

    return find


def assert_equal(kind: str, found: Path, expected: Path, *, exact: bool) -> None:
    """Compare gradients of the first step, every value of the log, and the last weights."""
    first = "first/checkpoints/step-00000001"
    gradients = differences(found / first, expected / first, "moments.", ".exp_avg")
    assert gradients and max(gradients.values()) < (2e-5 if exact else 2e-2), gradients
    records = list(zip(log_records(found), log_records(expected), strict=True))
    assert [record["step"] for record, _ in records] == list(range(1, LOOP.num_steps + 1))
    for a, b in records if exact else records[:1]:
        assert a.keys() - {"alarm"} == b.keys() - {"alarm"}
        for name in b.keys() - {"alarm"}:
            tolerance = (1e-5 if a["step"] == 1 else 5e-4) if exact else 0.05
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=1e-6), (a["step"], name)
    if kind in ("tokenizer", "adversarial"):
        assert sum(record["restarts"] for record, _ in records) > 0
    if (
        exact
    ):  # Adam turns a last digit of a gradient near zero, as of keys' biases, into a full step
        last = f"checkpoints/step-{LOOP.num_steps:08d}"
        for part in ("weights.", "averages."):
            far = differences(found / last, expected / last, part)
            assert max(far.values()) < 5e-3, max(far.items(), key=lambda each: each[1])


BF16 = TrainingPrecision.BF16
CASES = {
    "tokenizer": [Layout(4), Layout(2, 2)],
    "adversarial": [Layout(4), Layout(1, 4)],
    "generator": [
        Layout(2),
        Layout(1, 4),
        Layout(4, parallel=ParallelConfig(shard_over=2, recompute=True)),
        Layout(2, 2, parallel=ParallelConfig(offload=True)),
    ],
    "end_to_end": [Layout(2, 2)],
    "questions": [Layout(2), Layout(4, parallel=ParallelConfig(shard_over=2))],
    "lora": [Layout(2)],
}
MORE = {
    "tokenizer": [Layout(2), Layout(1, 4), Layout(2, precision=BF16)],
    "adversarial": [Layout(2), Layout(2, 2)],
    "gumbel": [Layout(2), Layout(4)],
    "dvae": [Layout(2), Layout(2, 2)],
    "decoder": [Layout(2), Layout(2, precision=BF16)],
    "generator": [
        Layout(4),
        Layout(1, 2, parallel=ParallelConfig(recompute=True)),
        Layout(2, parallel=ParallelConfig(shard_over=1)),
        Layout(2, precision=BF16),
    ],
    "end_to_end": [Layout(2), Layout(4), Layout(1, 4), Layout(2, precision=BF16)],
    "questions": [Layout(1, 4), Layout(2, 2)],
    "lora": [Layout(4, parallel=ParallelConfig(shard_over=2, recompute=True))],
    "shared_codes": [Layout(2), Layout(4, parallel=ParallelConfig(shard_over=2))],
}


@pytest.mark.parametrize(
    ("kind", "layout"),
    [(kind, layout) for kind, layouts in CASES.items() for layout in layouts]
    + [
        pytest.param(kind, layout, marks=pytest.mark.slow)
        for kind, layouts in MORE.items()
        for layout in layouts
    ],
    ids=str,
)
def test_any_layout_equals_one_process(
    together: Together,
    alone: Callable[..., Path],
    kind: str,
    layout: Layout,
    tmp_path: Path,
) -> None:
    assert {*JOBS} <= {*CASES, *MORE}
    together(layout.world, run, kind, layout, tmp_path)
    exact = layout.precision is TrainingPrecision.FP32  # else each share rounds its part to 8 bits
    assert_equal(kind, tmp_path, alone(kind, layout.precision), exact=exact)


def keep_own_gradients() -> None:
    """The fault of one process that goes on with what it has computed itself."""
    if dist.get_rank() == 1:
        reduce = training_loop.sum_gradients

        def skipping(parameters: list[torch.nn.Parameter]) -> None:
            own = [weight.grad.clone() for weight in parameters]
            reduce(parameters)
            for weight, gradient in zip(parameters, own, strict=True):
                weight.grad = gradient

        training_loop.sum_gradients = skipping  # type: ignore[assignment]


def average_gradients() -> None:
    """The fault of a factor: what `fully_shard` does unless told otherwise."""
    parallelize._sum_gradients = lambda module: None


def run_wrong(fault: Callable[[], None], kind: str, folder: Path) -> None:
    sums = training_loop.sum_gradients, parallelize._sum_gradients
    fault()
    try:
        run(kind, Layout(2), folder)
    finally:
        training_loop.sum_gradients, parallelize._sum_gradients = sums


@pytest.mark.parametrize(
    ("fault", "kind"), [(keep_own_gradients, "tokenizer"), (average_gradients, "generator")]
)
def test_a_fault_of_the_sums_is_seen(
    together: Together,
    alone: Callable[..., Path],
    fault: Callable[[], None],
    kind: str,
    tmp_path: Path,
) -> None:
    together(2, run_wrong, fault, kind, tmp_path)
    with pytest.raises(AssertionError):
        assert_equal(kind, tmp_path, alone(kind), exact=True)


RESUMED = replace(LOOP, num_steps=6, batch_size=12, save_every=3)


@pytest.mark.parametrize("kind", ["generator", pytest.param("adversarial", marks=pytest.mark.slow)])
@pytest.mark.parametrize("world", [1, 3])
def test_a_run_goes_on_with_another_number_of_processes(
    together: Together, kind: str, world: int, tmp_path: Path
) -> None:
    expected, parts = tmp_path / "expected", tmp_path / "parts"
    together(1, finish_quietly, kind, RESUMED, expected)
    together(2, train_until, 4, kind, RESUMED, parts, False)  # one step after its checkpoint
    together(world, finish_quietly, kind, RESUMED, parts, True)
    pairs = list(zip(log_records(parts), log_records(expected), strict=True))
    for a, b in pairs:
        assert a["loss"] == pytest.approx(b["loss"], rel=5e-4)
    assert [record["step"] for record, _ in pairs] == [1, 2, 3, 4, 5, 6]


def finish_quietly(kind: str, loop: LoopConfig, folder: Path, resume: bool = False) -> None:
    finish(kind, loop, folder, resume)  # a state with its shards cannot be sent back


@pytest.mark.parametrize("kind", ["generator", pytest.param("adversarial", marks=pytest.mark.slow)])
def test_two_processes_resume_bit_for_bit(together: Together, kind: str, tmp_path: Path) -> None:
    uncut, parts = tmp_path / "uncut", tmp_path / "parts"
    together(2, finish_quietly, kind, RESUMED, uncut)
    together(2, train_until, 4, kind, RESUMED, parts, False)
    together(2, finish_quietly, kind, RESUMED, parts, True)
    assert log_records(parts) == log_records(uncut)
    last = "checkpoints/step-00000006"
    found, expected = read_checkpoint(parts / last), read_checkpoint(uncut / last)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def first_model(kind: str, parallel: ParallelConfig) -> dict[str, Tensor] | None:
    job = make_job(kind, LOOP, parallel)
    assert isinstance(job, GeneratorJob)
    generator = whole(job.generator)
    return generator.state_dict() if generator is not None else None


@pytest.mark.parametrize("kind", ["generator", "shared_codes"])
@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(offload=True)], ids=str)
def test_first_weights_are_those_of_one_process(
    together: Together, kind: str, parallel: ParallelConfig
) -> None:
    expected = first_model(kind, PLAIN)
    found, none = together(2, first_model, kind, parallel)
    assert none is None and expected and found
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def finished_model(kind: str, folder: Path) -> dict[str, Tensor] | None:
    job = make_job(kind, LOOP)
    assert isinstance(job, GeneratorJob)
    train(job, replace(LOOP, show_every=5), [OPTIM] * len(job.turns), folder, out=io.StringIO())
    generator = whole(job.generator)
    return generator.state_dict() if generator is not None else None


@pytest.mark.parametrize("kind", ["generator", "shared_codes"])
def test_the_first_process_has_the_whole_model(
    together: Together, kind: str, tmp_path: Path
) -> None:
    found, none = together(2, finished_model, kind, tmp_path)
    assert none is None
    averages = read_checkpoint(tmp_path / "checkpoints" / f"step-{LOOP.num_steps:08d}")
    assert found and all(torch.equal(averages[f"averages.{n}"], v) for n, v in found.items())
    assert [path.name for path in sorted((tmp_path / "samples").glob("*.png"))] == [
        "step-00000005.png",
        "step-00000010.png",
    ]
