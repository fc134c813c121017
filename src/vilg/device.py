"""Where a model computes: chosen here once, and no code below the choice names a device.

Tensors are made where the model's are. What comes from NumPy, files or lists goes there by `moved`, at few
doors that say so; what goes back to the host does so where a function returns lists or arrays.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vilg.errors import VilgError

AUTO = "auto"
HOST = torch.device("cpu")
KINDS = "auto, cpu, cuda, cuda:N (the Nth CUDA device, from 0) and mps"


class DeviceError(VilgError):
    """A device of no known name, or one that this machine or this torch does not have."""


def choose_device(name: str | torch.device = AUTO, index: int = 0) -> torch.device:
    """Return the device of a name; "auto" is an accelerator where there is one, else the CPU.

    Args:
        index: which of several where the name does not say: of processes side by side, each takes its own.

    Raises:
        DeviceError: no such name, or nothing of that name here.
    """
    if isinstance(name, torch.device):
        name = str(name)
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
        name = "mps" if torch.backends.mps.is_available() else name
    kind, colon, number = name.partition(":")
    is_known = name in ("cpu", "cuda", "mps") or (kind == "cuda" and number.isdecimal())
    if not is_known:
        raise DeviceError(f"no device is called {name}; there are {KINDS}")
    if kind == "cuda":
        return _cuda(int(number) if colon else index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("there is no mps device here: it needs macOS on Apple silicon; take cpu")
    return torch.device(kind)


def _cuda(index: int) -> torch.device:
    if not torch.backends.cuda.is_built():
        raise DeviceError(
            "cuda was asked for, and this torch was built without it: install one of "
            "https://pytorch.org/get-started/locally that has it, or take cpu"
        )
    count = torch.cuda.device_count()
    if not torch.cuda.is_available() or index >= count:
        there = f"there are {count}, counted from 0" if count else "no CUDA device is found"
        raise DeviceError(f"cuda:{index} was asked for, and {there}: take another, or cpu")
    return torch.device("cuda", index)


def described(device: torch.device) -> str:
    """Return a device's name with what it is: "cuda:0 (NVIDIA H200)"."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def in_double(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in double precision on a device, or on the host where the device has none (mps)."""
    return tensor.cpu().double() if device.type == "mps" else moved(tensor, device).double()


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; from pinned memory of the host nothing waits for it."""
    return tensor.to(device, non_blocking=tensor.device == HOST and tensor.is_pinned())


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device that is not the host has instructions for bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "mps" or torch.backends.mps.is_macos_or_newer(14, 0)


def usual_dtype(device: torch.device) -> torch.dtype:
    """Return what products are computed in where nothing is asked for: bf16 on CUDA, else fp32."""
    is_rounded = device.type == "cuda" and multiplies_bf16(device)
    return torch.bfloat16 if is_rounded else torch.float32


def can_record(device: torch.device) -> bool:
    """Return whether a device takes many operations as one launch."""
    return device.type == "cuda"


def record(step: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function of one tensor as one launch (a CUDA graph, torch.cuda.CUDAGraph).

    The function is run some times first. What it reads besides its argument must stay where it is, and it
    must not look at numbers.

    Args:
        x: of the shape that every argument will have.
    """
    given = x.clone()
    side = torch.cuda.Stream(x.device)
    side.wait_stream(torch.cuda.current_stream(x.device))
    # First calls choose kernels and take memory, which cannot be recorded.
    with torch.cuda.stream(side):
        for _ in range(3):
            step(given)
    torch.cuda.current_stream(x.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(x.device), torch.cuda.graph(graph):
        made = step(given)

    def replay(x: Tensor) -> Tensor:
        given.copy_(x)
        graph.replay()
        return made.clone()

    return replay
