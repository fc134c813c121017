"""One attention, forward and backward, in bf16: the fused kernel against kept scores, the ground of decision 0008.

    python -m bench.gradients      ten seconds, idle

Milliseconds, medians, for 4 heads of 64 and about 1,280 queries, under a causal mask. Prints the table;
decision 0008 holds a copy.
"""

from collections.abc import Callable
from unittest.mock import patch

import torch

from bench.measure import machine, medians, table
from vilg.model import attend

LENGTHS, QUERIES, HEADS, HEAD_WIDTH = (40, 80, 160, 320, 640), 1280, 4, 64


def case(length: int, most_kept: int) -> Callable[[], None]:
    shape = (QUERIES // length, length, HEADS, HEAD_WIDTH)
    qkv = [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    read = attend.masked(torch.ones(1, 1, length, length, dtype=torch.bool).tril())

    def run() -> None:
        with patch.object(attend, "MOST_KEPT_KEYS", most_kept):
            read(*qkv).sum().backward()

    return run


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for length in LENGTHS:
        seconds = medians(
            {"fused": case(length, 0), "kept": case(length, length)},
            rounds=9,
        )
        fused, kept = (1e3 * value for value in seconds.values())
        rows.append([str(length), f"{fused:.1f}", f"{kept:.1f}", f"{fused / kept:.1f}x"])
    print(f"Machine: {machine()}.\n")
    print(table(["keys", "fused kernel", "kept scores", "gain"], rows))


if __name__ == "__main__":
    main()
