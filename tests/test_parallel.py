"""With one process nothing changes; with several see `training/test_two_processes.py`."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from vilg import parallel
from vilg.errors import SettingError
from vilg.parallel import WHOLE, Share, check_divides, own_shares


def test_one_process_is_the_whole() -> None:
    assert (parallel.num_processes(), parallel.this_process()) == (1, 0)
    batch = np.array([4, 1, 3])
    assert own_shares() == [WHOLE]
    assert WHOLE.part(batch).tolist() == [4, 1, 3]
    tensor = torch.tensor([1.0, 2.0])
    assert torch.equal(parallel.sum_over_processes(tensor), tensor)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (4, 2), (2, 4)])
def test_shares_divide_a_batch_and_its_head(
    world: int, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dealt out like cards: whatever share of a batch is at its head, each has as much of it."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: world)
    batch, shares = np.arange(16) * 7 % 16, []
    for rank in range(world):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        shares += own_shares(accumulate)
    num = world * accumulate
    assert sorted(share.index for share in shares) == list(range(num))
    hands = {share.index: share.part(batch).tolist() for share in shares}
    assert {len(hand) for hand in hands.values()} == {16 // num}
    assert [hands[i % num][i // num] for i in range(16)] == batch.tolist()


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(AssertionError, match="must divide"):
        Share(0, 2).part(np.arange(3))
    check_divides("pairs", 6, 3)
    with pytest.raises(SettingError, match=r"6 pairs do not divide among 1 processes in 4 micro"):
        check_divides("pairs", 6, 4)
