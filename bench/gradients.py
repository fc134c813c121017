"""One attention, forward and backward, by the fused kernel and through kept scores: decision 0008.

    OMP_NUM_THREADS=1 python -m bench.gradients      half a minute

Milliseconds, medians, for 4 heads of 64 and about 1,280 queries: whole sequences under a causal mask, and
groups of 32 queries, as the fast forms have them. Prints the table; decision 0008 holds a copy.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import machine, medians, table
from vilg.model.attend import with_kept_scores

# (queries, keys) of a sequence or group.
SIZES = ((40, 40), (80, 80), (160, 160), (240, 240), (320, 320), (32, 96), (32, 256))
QUERIES, HEADS, HEAD_WIDTH = 1280, 4, 64


Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

FORMS: dict[str, Form] = {
    "fused kernel": F.scaled_dot_product_attention,
    "kept scores": with_kept_scores,
}
PRECISIONS = {"": torch.bfloat16, "fp32: ": torch.float32}


def case(form: Form, num_queries: int, num_keys: int, dtype: torch.dtype) -> Callable[[], None]:
    q, k, v = (
        torch.randn(QUERIES // num_queries, HEADS, length, HEAD_WIDTH, dtype=dtype).requires_grad_()
        for length in (num_queries, num_keys, num_keys)
    )
    see = torch.ones(1, 1, num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    return lambda: form(q, k, v, see).sum().backward()


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for size in SIZES:
        row = ["{} x {}".format(*size)]
        for dtype in PRECISIONS.values():
            cases = {name: case(form, *size, dtype) for name, form in FORMS.items()}
            fused, kept = (1e3 * x for x in medians(cases, rounds=9).values())
            row += [f"{fused:.1f}", f"{kept:.1f}", f"{fused / kept:.1f}x"]
        rows.append(row)
    print(f"Machine: {machine()}.\n")
    columns = [f"{precision}{name}" for precision in PRECISIONS for name in (*FORMS, "gain")]
    print(table(["queries x keys", *columns], rows))


if __name__ == "__main__":
    main()
