"""The generator's matrix products, made ready for decoding: nothing else knows of precision.

On the host a step of decoding multiplies a few rows by every weight once, so it costs what reading the weights
costs. They are therefore laid out once, at load, as the kernel wants to read them, and stored smaller
where that is asked for: in bf16, or in int8 with one scale a row of weights and one a row of
activations, so that neighbours in a batch never change an image. On other devices PyTorch's own products
are taken, in fp32 or bf16; norms, softmax and the sum of all layers are in fp32 everywhere.

Shape letters: R rows, I inputs, O outputs.
"""

import copy
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilg.device import HOST, multiplies_bf16, usual_dtype
from vilg.errors import VilgError, require
from vilg.model.generator import Generator

# How many rows the packed layout is chosen for; other numbers of rows are multiplied as well. At 1, 4 and
# 16 rows it is 2.1, 2.7 and 1.9 times as fast as the plain product, which packs its operands on every
# call (bench.linear, docs/lab/decisions/0009).
_PACKED_FOR = 16


class Precision(StrEnum):
    """How the weights of matrix products are stored; sums are in single precision or int32 always."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"


_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.int8: "int8"}


class PrecisionError(VilgError):
    """A precision that this processor or device has no instructions for."""


def is_supported(precision: Precision, device: torch.device = HOST) -> bool:
    """Return whether a device multiplies in a precision, and the host in int8 no slower than in fp32.

    oneDNN multiplies bf16 from AVX-512 on. Without AVX512-VNNI `torch._int_mm` is three nested loops, many
    times as slow as fp32 (bench.linear, docs/lab/decisions/0009); on ARM it is that always.
    """
    if precision is Precision.FP32:
        return True
    if device != HOST:
        return precision is Precision.BF16 and multiplies_bf16(device)
    if not torch.backends.mkldnn.is_available():
        return False
    if precision is Precision.INT8:
        return torch.cpu._is_vnni_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_precision(
    given: Precision | str | torch.dtype | None = None, device: torch.device = HOST
) -> Precision:
    """Return a precision, unless nobody would want it there; None is bf16 on CUDA, else fp32.

    Raises:
        SettingError: an unknown one.
        PrecisionError: bf16 or int8 on a processor or device, or with a torch, that has nothing for it.
    """
    given = usual_dtype(device) if given is None else given
    name = _NAMES.get(given, str(given)) if isinstance(given, torch.dtype) else given
    require(name in [*Precision], f"the precision must be {' or '.join(Precision)}, not {name}")
    precision = Precision(name)
    if not is_supported(precision, device):
        others = " or ".join(p for p in Precision if is_supported(p, device))
        where = "this processor" if device == HOST else str(device)
        raise PrecisionError(
            f"{where}, or this torch on it, has no instructions for {precision}: take {others}"
        )
    return precision


class PackedLinear(nn.Module):
    """A linear layer whose weights lie in oneDNN's own order."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.bias_O = linear.bias.detach().to(dtype)
        weight_OI = linear.weight.detach().to(dtype)
        # Inductor's own operators; pinned with torch's version, and tested against the plain layer.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, _PACKED_FOR)

    def forward(self, x: Tensor) -> Tensor:
        made = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.packed, self.bias_O, "none", [], ""
        )
        return made.to(x.dtype)


class Int8Linear(nn.Module):
    """A linear layer of 8-bit integers: weights rounded once, activations row by row."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight_OI = linear.weight.detach()
        self.scale_O = _scale(weight_OI).squeeze(1)
        self.weight_OI = _rounded(weight_OI, self.scale_O[:, None])
        self.bias_O = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        x_RI = x.reshape(-1, x.shape[-1])
        scale_R1 = _scale(x_RI)
        sums_RO = torch._int_mm(_rounded(x_RI, scale_R1), self.weight_OI.t())
        made_RO = torch.addcmul(self.bias_O, sums_RO * scale_R1, self.scale_O)
        return made_RO.view(*x.shape[:-1], -1)


def _scale(x_RI: Tensor) -> Tensor:
    """Return scale_R1, which brings each row's largest value to 127; rows of zeros to zeros."""
    tiny = torch.finfo(x_RI.dtype).tiny
    return x_RI.abs().amax(dim=1, keepdim=True).div_(127).clamp_min_(tiny)


def _rounded(x_RI: Tensor, scale_R1: Tensor) -> Tensor:
    return (x_RI / scale_R1).round_().to(torch.int8)


class RoundedLinear(nn.Module):
    """A linear layer in bf16, its result too; the weights are those of the given one if they are that."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        # No parameters, which a change of the model's precision would reach.
        self.weight_OI, self.bias_O = (x.detach().bfloat16() for x in (linear.weight, linear.bias))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight_OI, self.bias_O)


def prepared(generator: Generator, precision: Precision) -> Generator:
    """Return the generator for decoding where it is, which shares everything but the matrix products.

    The weights of the original are not touched: on the host they are held beside the prepared ones. int8 is
    computed on any processor, bf16 only where it is supported.
    """
    is_here = generator.device == HOST
    if precision is Precision.FP32 and not (is_here and torch.backends.mkldnn.is_available()):
        return generator  # the plain product is all there is
    shared = {id(x): x for x in (*generator.parameters(), *generator.buffers())}
    twin = copy.deepcopy(generator, shared)
    for name, part in list(twin.named_modules()):
        if isinstance(part, nn.Linear):
            twin.set_submodule(name, _prepared_linear(part, precision, is_here))
        else:
            for key, weight in part._parameters.items():
                part._parameters[key] = None if weight is None else _in_single(weight)
    return twin


def _prepared_linear(linear: nn.Linear, precision: Precision, is_here: bool) -> nn.Module:
    if not is_here:
        return RoundedLinear(linear)
    if precision is Precision.INT8:
        return Int8Linear(linear)
    return PackedLinear(linear, torch.bfloat16 if precision is Precision.BF16 else torch.float32)


def _in_single(weight: nn.Parameter) -> nn.Parameter:
    is_single = weight.dtype == torch.float32
    return weight if is_single else nn.Parameter(weight.float(), requires_grad=False)
