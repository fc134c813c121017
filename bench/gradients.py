"""One attention, forward and backward, by the fused kernel and through kept scores: decision 0008.

    OMP_NUM_THREADS=1 python -m bench.gradients      half a minute

Milliseconds, medians, for 4 heads of 64 and about 1,280 queries: whole sequences under a causal mask, and
groups of 32 queries, as the fast forms have them. Prints the table; decision 0008 holds a copy.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench.measure import machine, medians, table
from vilg.model.attend import with_kept_scores

# (queries, keys) of a sequence or group.
SIZES = ((40, 40), (80, 80), (160, 160), (240, 240), (320, 320), (32, 96), (32, 256))
QUERIES, HEADS, HEAD_WIDTH = 1280, 4, 64


def case(num_queries: int, num_keys: int, dtype: torch.dtype, keep: bool) -> Callable[[], None]:
    q, k, v = (
        torch.randn(QUERIES // num_queries, HEADS, length, HEAD_WIDTH, dtype=dtype).requires_grad_()
        for length in (num_queries, num_keys, num_keys)
    )
    see = torch.ones(1, 1, num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)

    def run() -> None:
        if keep:
            h = with_kept_scores(q, k, v, see)
        else:
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=see)
        h.sum().backward()

    return run


def main() -> None:
    torch.manual_seed(0)
    cases = {
        (size, dtype, keep): case(*size, dtype, keep)
        for size in SIZES
        for dtype in (torch.bfloat16, torch.float32)
        for keep in (False, True)
    }
    names = {name: str(name) for name in cases}
    seconds = medians({names[name]: run for name, run in cases.items()}, rounds=9)
    rows = []
    for size in SIZES:
        row = ["{} x {}".format(*size)]
        for dtype in (torch.bfloat16, torch.float32):
            fused, kept = (1e3 * seconds[names[size, dtype, keep]] for keep in (False, True))
            row += [f"{fused:.1f}", f"{kept:.1f}", f"{fused / kept:.1f}x"]
        rows.append(row)
    print(f"Machine: {machine()}.\n")
    columns = ["fused kernel", "kept scores", "gain"]
    print(table(["queries x keys", *columns, *(f"fp32: {name}" for name in columns)], rows))


if __name__ == "__main__":
    main()
