"""What one matrix product of decoding costs, form by form: the ground of decision 0009.

    python -m bench.linear      a minute, idle

Microseconds, medians, for 512 to 2,048 features and few rows. The weights of forty layers take turns, so
that they come from memory as they do while decoding. Prints the table; decision 0009 holds a copy.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.measure import machine, medians, table
from vilg.sampling.precision import Int8Linear, PackedLinear, Precision, is_supported

INPUTS, OUTPUTS, LAYERS, ROWS = 512, 2048, 40, (1, 4, 16, 32)
CALLS = 80

Form = Callable[[nn.Linear], Callable[[Tensor], Tensor]]


def transposed(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight_IO = linear.weight.t().contiguous()
    return lambda x: torch.addmm(linear.bias, x, weight_IO)


FORMS: dict[str, Form] = {
    "`F.linear`": lambda linear: lambda x: F.linear(x, linear.weight, linear.bias),
    "`addmm`, transposed weight": transposed,
    "packed, fp32": lambda linear: PackedLinear(linear, torch.float32),
    "int8, rounding included": Int8Linear,
}
if is_supported(Precision.BF16):
    FORMS["packed, bf16"] = lambda linear: PackedLinear(linear, torch.bfloat16)


def case(layers: list[Callable[[Tensor], Tensor]], x: Tensor) -> Callable[[], None]:
    turns = itertools.cycle(layers)

    def run() -> None:
        for _ in range(CALLS):
            next(turns)(x)

    return run


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(INPUTS, OUTPUTS) for _ in range(LAYERS)]
    forms = {name: [form(layer) for layer in layers] for name, form in FORMS.items()}
    cells: dict[str, list[str]] = {name: [name] for name in forms}
    for rows in ROWS:
        x = torch.randn(rows, INPUTS)
        seconds = medians({name: case(made, x) for name, made in forms.items()}, rounds=7)
        for name, value in seconds.items():
            cells[name].append(f"{1e6 * value / CALLS:.0f}")
    print(f"Machine: {machine()}.\n")
    print(table(["", *map(str, ROWS)], list(cells.values())))


if __name__ == "__main__":
    main()
