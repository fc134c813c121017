"""Several processes as one: a batch is dealt out in shares, sums go over all processes.

A step on N processes, or in k micro-batches, equals the step on one: each share's loss is its part of a sum
over the whole batch, divided by what the whole batch counts, so that shares are summed and never averaged.
With one process, which is what runs unless `torch.distributed` was initialised, nothing is exchanged.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from vilg.errors import require

Scalar = TypeVar("Scalar", bound=np.generic)


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def this_process() -> int:
    """Return the rank of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


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


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; outside of autograd."""
    if num_processes() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total
