"""A step on two processes is a step on one: losses, gradients, codebook counts, restarts, weights."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.training.conftest import JOBS, OPTIM, make_job
from vilg.training.loop import LoopConfig, take_turn

LOOP = LoopConfig(num_steps=4, batch_size=4)
STEPS = 3  # the adversarial term joins at the second; codes have died and restarted by the third


def steps(kind: str, folder: Path, name: str) -> None:
    """Take some steps and keep all that they left."""
    torch.set_num_threads(1)
    job = make_job(kind, LOOP)
    # Plain descent: Adam's first steps turn a last digit of a gradient near zero into a full step.
    optimizers = [torch.optim.SGD(turn.module.parameters(), lr=0.3) for turn in job.turns]
    values: dict[str, float] = {}
    for step in range(STEPS):
        for turn, optimizer in zip(job.turns, optimizers, strict=True):
            values |= take_turn(turn, optimizer, OPTIM, step)
        values |= job.after_step(step)
    torch.save({"values": values, "weights": job.module.state_dict()}, folder / f"{name}.pt")


def process(rank: int, kind: str, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    steps(kind, folder, f"rank{rank}")
    dist.barrier()  # a process that leaves while the other still talks may take gloo's threads down
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", JOBS)
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    steps(kind, tmp_path, "alone")
    mp.start_processes(process, (kind, tmp_path), nprocs=2, start_method="spawn")
    alone, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for name in ("alone", "rank0", "rank1")
    )
    assert first["values"].keys() == alone["values"].keys()
    for name, value in alone["values"].items():
        assert first["values"][name] == second["values"][name], name
        # PSNR is a mean of logarithms, by process: near, not equal.
        tolerance = 0.05 if name == "psnr" else 1e-5
        assert first["values"][name] == pytest.approx(value, rel=tolerance, abs=1e-6), name
    if kind in ("tokenizer", "adversarial"):
        assert alone["values"]["restarts"] > 0
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        assert torch.allclose(first["weights"][name], weight, rtol=1e-4, atol=1e-6), name
