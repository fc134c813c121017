"""A device that is not the CPU, on a machine that has no other: its numbers are real.

Its tensors say that they are on `meta`, and hold their numbers on the CPU. So all of a job runs and its
result can be compared. As with a GPU, an operation on tensors of two devices is an error, and so is whatever
makes Python wait for a number; `.cpu()` is the one way back, and counted.
"""

import copy
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

Module = TypeVar("Module", bound=nn.Module)
ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
# What depends on numbers: the host waits for them to know a value or a shape.
_READS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.repeat_interleave,
}


class HostRead(AssertionError):
    """Python looked at a number of a tensor that is elsewhere."""


class Elsewhere(torch.Tensor):
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Self:
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ELSEWHERE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} outside of `other_device`")


class OtherDevice(TorchDispatchMode):
    """Counts what goes there and what comes back.

    Attributes:
        moves: tensors that went from the host.
        reads: tensors that came back by `.cpu()`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moves = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with self:  # tensors of inference mode come with what is made of several operations
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, Elsewhere)]
        target = kwargs.get("device")
        if func is aten._to_copy.default and target is not None:
            return self._copied(args[0], kwargs)
        if not there and target != ELSEWHERE:
            return func(*args, **kwargs)
        strays = [x for x in tensors if not isinstance(x, Elsewhere) and x.dim()]
        assert not strays, f"{func} of tensors here and elsewhere: {strays[0].shape} is here"
        if func.overloadpacket in _READS or _is_by_mask(func, args):
            raise HostRead(f"{func} waits for the device")
        if target is not None:
            kwargs["device"] = "cpu"
        made = func(*_held(args), **_held(kwargs))
        if func._schema.is_mutable and not isinstance(made, tuple | list):
            return args[0] if made is not None else None
        return tree_map_only(Tensor, Elsewhere, made)

    def _copied(self, x: Tensor, kwargs: dict[str, Any]) -> Tensor:
        was_here, goes_there = not isinstance(x, Elsewhere), kwargs["device"] == ELSEWHERE
        self.moves += was_here and goes_there
        self.reads += not was_here and not goes_there
        made = aten._to_copy.default(_held(x), **{**kwargs, "device": "cpu"})
        return Elsewhere(made) if goes_there else made


def _held(values: Any) -> Any:
    return tree_map_only(Elsewhere, lambda x: x.held, values)


def _is_by_mask(func: Any, args: Any) -> bool:
    """An index of booleans has as many places as it has truths."""
    if func.overloadpacket not in (aten.index, aten.index_put, aten.index_put_):
        return False
    return any(x is not None and x.dtype is torch.bool for x in args[1])


def moved_there(module: Module) -> Module:
    """Return a copy of a module whose weights are elsewhere."""
    twin = copy.deepcopy(module)
    move_there(twin.requires_grad_(False))
    return twin


def move_there(module: nn.Module) -> None:
    """Move a module's weights in place; what was moved before stays."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None and not isinstance(weight.data, Elsewhere):
                there, is_trained = Elsewhere(weight.data), weight.requires_grad
                part._parameters[name] = nn.Parameter(there, requires_grad=is_trained)
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Elsewhere):
                part._buffers[name] = Elsewhere(buffer)


@contextmanager
def other_device() -> Iterator[OtherDevice]:
    """Run what is inside with tensors elsewhere; inference mode, which shows modes no operations, is no_grad."""
    _forget()
    with (
        patch.object(torch._C, "_InferenceMode", lambda mode: torch.no_grad()),
        OtherDevice() as mode,
    ):
        yield mode
    _forget()


def _forget() -> None:
    """Empty the caches of masks: the true meta device has the same name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("vilg."):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
