"""With one process nothing changes; with several see `training/test_two_processes.py`."""

import numpy as np
import torch

from vilg import parallel


def test_one_process_is_the_whole() -> None:
    assert (parallel.num_processes(), parallel.this_process()) == (1, 0)
    batch = np.array([4, 1, 3])
    assert parallel.own_share(batch).tolist() == [4, 1, 3]
    tensor = torch.tensor([1.0, 2.0])
    assert torch.equal(parallel.sum_over_processes(tensor), tensor)
    assert torch.equal(parallel.mean_over_processes([tensor, tensor * 2])[1], tensor * 2)
