"""With one process nothing changes; with several see `training/test_two_processes.py`."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from vilg import parallel


def test_one_process_is_the_whole() -> None:
    assert (parallel.num_processes(), parallel.this_process()) == (1, 0)
    batch = np.array([4, 1, 3])
    assert parallel.own_share(batch).tolist() == [4, 1, 3]
    tensor = torch.tensor([1.0, 2.0])
    assert torch.equal(parallel.sum_over_processes(tensor), tensor)
    assert torch.equal(parallel.mean_over_processes([tensor, tensor * 2])[1], tensor * 2)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_processes_divide_a_batch_and_its_head(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dealt out like cards: whatever share of a batch is at its head, each has as much of it."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: world)
    batch, hands = np.arange(16) * 7 % 16, []
    for rank in range(world):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        hands.append(parallel.own_share(batch).tolist())
    assert [len(hand) for hand in hands] == [16 // world] * world
    assert [hands[i % world][i // world] for i in range(16)] == batch.tolist()
    if world > 1:
        with pytest.raises(AssertionError, match="must divide"):
            parallel.own_share(batch[1:])
