"""With one process nothing changes; with several see `training/test_two_processes.py`."""

import io
import os
import socket
import sys
from multiprocessing.queues import Queue

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.training.conftest import forking
from vilg import parallel
from vilg.errors import SettingError
from vilg.parallel import WHOLE, Share, check_divides, own_shares
from vilg.progress import say


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


def in_process(rank: int, world: int, port: int, fails: int, how: str, found: Queue) -> None:
    """Be one of some; one of them ends, with an error or without a word."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    sys.stderr = io.StringIO()
    try:
        with parallel.joined():
            say(f"{rank} is there")
            held = torch.zeros(1)  # as an error's frames hold what was computed with the others
            dist.all_reduce(held)
            if rank == fails:
                if how == "with an error":
                    raise SettingError("a wrong setting")
                os._exit(9)
            parallel.meet()
    except (SettingError, parallel.ProcessError) as error:
        found.put(f"{rank} said {error}")
    except SystemExit as error:
        found.put(f"{rank} ended with {error.code}")
    found.put(f"{rank} had said {sys.stderr.getvalue()!r}")


ERROR, KILLED = "with an error", "without a word"


@pytest.mark.parametrize(
    ("world", "fails", "how", "expected"),
    [
        (2, 1, ERROR, ["0 ended with 2", "1 said a wrong setting"]),
        # Without torchrun the first process keeps what the others ask.
        (2, 0, ERROR, ["0 said a wrong setting", "1 ended with 2"]),
        (2, 1, KILLED, ["0 said process 1 of 2 has ended"]),
        (2, 0, KILLED, ["1 said process 0 of 2 has ended"]),
        (3, 1, ERROR, ["0 ended with 2", "1 said a wrong setting", "2 ended with 2"]),
        (3, 1, KILLED, ["said process 1 of 3 has ended", "ended with 2"]),
    ],
)
def test_what_ends_one_process_is_said_once_and_ends_the_others(
    world: int, fails: int, how: str, expected: list[str]
) -> None:
    context = forking()
    found = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=in_process, args=(rank, world, port, fails, how, found))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    said = [found.get(timeout=60) for _ in range(2 * len(expected))]
    for process in processes:
        process.join(60)
    lines = sorted(line for line in said if " had said " not in line)
    for part in expected:
        (line,) = (line for line in lines if part in line)
        lines.remove(line)
    assert not lines
    for line in said:
        if " had said " in line:
            first = "'0 is there\\n'" if line.startswith("0") else "''"
            assert line.endswith(f" had said {first}"), line


def test_processes_that_nobody_has_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(parallel.ProcessError, match="start them by torchrun"), parallel.joined():
        raise AssertionError("they never meet")
