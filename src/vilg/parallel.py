"""Several processes as one: a batch is dealt out in shares, sums go over all processes.

A step on N processes, or in k micro-batches, equals the step on one: each share's loss is its part of a sum
over the whole batch, divided by what the whole batch counts, so that shares are summed and never averaged.
With one process, which is what runs unless `torch.distributed` was initialised, nothing is exchanged.
"""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from traceback import clear_frames
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from vilg.errors import VilgError, require

# How long a process waits for the others in a step. One that dies is noticed at once where its connections
# break, and after this long at the latest.
TIMEOUT = timedelta(seconds=60)
_TO_SPEAK = 0.5  # seconds
_ANSWER_WITHIN = 3.0  # seconds in which those who live say so, when one has gone

Scalar = TypeVar("Scalar", bound=np.generic)


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def num_on_machine() -> int:
    """Return how many of the processes share this machine, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if dist.is_initialized() else 1


def this_process() -> int:
    """Return the rank of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Say whether this process is the one that writes and speaks."""
    return this_process() == 0


class ProcessError(VilgError):
    """Processes that cannot begin together, or of which one has ended."""


@contextmanager
def joined() -> Iterator[None]:
    """Let the processes that torchrun has started be one, until the end of the block; alone, do nothing.

    Only the first one speaks within the block. What goes wrong is said by the process that meets it first; the
    others end quietly, with the same status.

    Raises:
        ProcessError: they cannot meet, or another one has ended.
    """
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    backend = "cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        patient_group()  # now, while all are there: who makes it waits as patiently
    except (dist.DistError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ProcessError(
            f"the processes cannot meet: {reason}; start them by torchrun"
        ) from error
    store, num = dist.distributed_c10d._get_default_store(), num_processes()
    try:
        with nullcontext() if is_first() else _quiet():
            yield
            meet()  # who leaves while others still talk may take their connections down
    except KeyboardInterrupt:
        if is_first():
            raise
        raise SystemExit(128 + 2) from None
    except (VilgError, OSError, RuntimeError) as error:
        is_cut = isinstance(error, dist.DistError) or "gloo" in str(error)
        if not isinstance(error, VilgError | OSError) and not is_cut:
            raise
        is_said = not _speaks(store)
        gone = "" if is_said or not is_cut else _gone(store)
        if is_first() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            clear_frames(error.__traceback__)
            _wait_till_asked(store)
        if is_said:
            time.sleep(_TO_SPEAK)  # torchrun ends all others when the first has ended
            raise SystemExit(2) from None
        if not is_cut:
            raise
        raise ProcessError(
            f"{gone} of {num} has ended, and with it the run: its own line or torchrun's says why; go on with "
            "--resume"
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _speaks(store: dist.Store) -> bool:
    """Tell the others that this process lives; say whether it is the first that something went wrong in."""
    try:
        store.set(f"lives {this_process()}", "")
        return store.add("errors", 1) == 1
    except RuntimeError:  # the store went with the first process, which was killed
        return True


def _gone(store: dist.Store) -> str:
    """Name the processes that no longer answer."""
    try:
        time.sleep(_ANSWER_WITHIN)
        ranks = range(num_processes())
        gone = [str(rank) for rank in ranks if not store.check([f"lives {rank}"])]
    except RuntimeError:
        gone = ["0"]  # which keeps the store, unless torchrun does
    return f"process {', '.join(gone)}" if gone else "a process"


def _wait_till_asked(store: dist.Store) -> None:
    """Cut the connections, as an end would, and keep the store until the others have asked it who speaks."""
    num = num_processes()
    _patient.cache_clear()
    dist.destroy_process_group()
    gc.collect()  # sharded weights hold connections too
    until = time.monotonic() + _ANSWER_WITHIN
    while store.add("errors", 0) < num and time.monotonic() < until:
        time.sleep(0.05)


def patient_group() -> dist.ProcessGroup | None:
    """Return the processes as a group in which they wait for each other as long as it takes; alone, none."""
    return _patient(dist.group.WORLD) if num_processes() > 1 else None


@cache
def _patient(world: dist.ProcessGroup) -> dist.ProcessGroup:
    return dist.new_group(timeout=timedelta(days=7), backend="gloo")


def meet() -> None:
    """Wait until all processes are here, however long one of them works alone; it ends if one dies."""
    if num_processes() > 1:
        dist.barrier(group=patient_group())


@dataclass(frozen=True)
class Share:
    """What one process sees of a batch at once: its samples number `index`, `index + of` and so on.

    Dealt out like cards, so that the head of a batch is shared too.
    """

    index: int = 0
    of: int = 1

    def part(self, batch: NDArray[Scalar]) -> NDArray[Scalar]:
        assert len(batch) % self.of == 0, "the batch must divide among the shares"
        return batch[self.index :: self.of]


WHOLE = Share()


def own_shares(accumulate: int = 1) -> list[Share]:
    """Return this process's shares of every batch, one a micro-batch."""
    processes = num_processes()
    return [
        Share(i * processes + this_process(), accumulate * processes) for i in range(accumulate)
    ]


def check_divides(what: str, number: int, accumulate: int) -> None:
    """Refuse a batch of which processes or micro-batches would get unequal shares.

    Raises:
        SettingError: says among how many it does not divide.
    """
    processes = num_processes()
    require(
        number % (accumulate * processes) == 0,
        f"{number} {what} do not divide among {processes} processes in {accumulate} micro-batches each: "
        "change loop.batch_size, loop.accumulate or the number of processes",
    )


def least_over_processes(number: float) -> float:
    """Return the least that any process has."""
    if num_processes() == 1:
        return number
    least = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(least, dist.ReduceOp.MIN, patient_group())
    return float(least)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; outside of autograd."""
    if num_processes() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total
