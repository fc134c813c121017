"""Several processes as one: each takes its share of a batch, sums and means go over all of them.

With one process, which is what runs unless `torch.distributed` was initialised, everything here gives
back what it was given. Written so that a step on N processes equals the step on one.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

Scalar = TypeVar("Scalar", bound=np.generic)


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def this_process() -> int:
    """Return the rank of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_share(batch: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return this process's part of a batch: every Nth row, so that a batch's head is shared too."""
    assert len(batch) % num_processes() == 0, "the batch must divide among the processes"
    return batch[this_process() :: num_processes()]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; outside of autograd."""
    if num_processes() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)  # SUM: gloo has no AVG
    return total


def mean_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over all processes; outside of autograd."""
    if num_processes() == 1:
        return list(tensors)
    return [sum_over_processes(tensor) / num_processes() for tensor in tensors]
