"""The passes of a kernel around its products, each in one walk over memory: the numbers of :mod:`.by_operators`, in every bit.

``passes.c`` has the walks. It is compiled where a walk is first needed and a C compiler is there, and tried against PyTorch's
operators before it is used. Where there is no compiler, on an accelerator, and where a pass is captured, the operators compute.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from qat.system import c_library

from . import by_operators
from .by_operators import SMALLEST_SCALE, Limits

#: The arguments of each function of passes.c.
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "requantize": (c_void_p, c_void_p, c_int64, c_int64, c_float, c_float),
    "to_bytes": (c_void_p, c_void_p, c_int64, c_int32),
    "mask_by_bytes": (c_void_p, c_void_p, c_void_p, c_int64, c_int32),
    "weight_integers": (*(c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_float, c_float, c_float, c_int32),
                        *(c_void_p, c_void_p, c_void_p, c_void_p)),
    "rounded_weight": (c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64),
}  # fmt: skip


class Passes(Protocol):
    """What a kernel does besides its products; :mod:`.by_operators` says what each of them returns."""

    def requantize(self, acc: Tensor, multiplier: Tensor, limits: Limits, axis: int) -> Tensor:
        """Return the output's integers, in the memory of the accumulator."""

    def to_bytes(self, x: Tensor, lo: int) -> Tensor:
        """Return integers in bytes."""

    def mask_by_bytes(self, grad: Tensor, saved: Tensor, width: float) -> Tensor:
        """Return a gradient where a byte is strictly within its limits."""

    def weight_integers(
        self, weight: Tensor, bias: Tensor | None, scales: tuple[Tensor, Tensor], qmax: int, per_channel: bool, bias_limit: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return scale, weight, bias and multiplier of a kernel."""

    def rounded_weight(self, weight: Tensor, scale: Tensor, factor: Tensor | None) -> Tensor:
        """Return a weight's integers times a factor."""


class Walks:
    """The passes by passes.c, over tensors of the CPU that are dense, contiguous or channels last; the operators take others."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None

    def requantize(self, acc: Tensor, multiplier: Tensor, limits: Limits, axis: int) -> Tensor:
        """Walk over rows of channels."""
        size = acc.numel()
        if not (size and acc.is_contiguous(memory_format=torch.channels_last if axis == 1 else torch.contiguous_format)):
            return by_operators.requantize(acc, multiplier, limits, axis)
        channels = multiplier.numel()
        self.library.requantize(acc.data_ptr(), multiplier.data_ptr(), size // channels, channels, *limits)
        return acc

    def to_bytes(self, x: Tensor, lo: int) -> Tensor:
        """Walk over all values."""
        if not _is_dense(x):
            return by_operators.to_bytes(x, lo)
        found = torch.empty_like(x, dtype=torch.uint8)
        self.library.to_bytes(found.data_ptr(), x.data_ptr(), x.numel(), lo)
        return found

    def mask_by_bytes(self, grad: Tensor, saved: Tensor, width: float) -> Tensor:
        """Walk over all values."""
        if grad.stride() != saved.stride() or not _is_dense(grad):
            return by_operators.mask_by_bytes(grad, saved, width)
        found = torch.empty_like(grad)
        self.library.mask_by_bytes(found.data_ptr(), grad.data_ptr(), saved.data_ptr(), grad.numel(), int(width))
        return found

    def weight_integers(
        self, weight: Tensor, bias: Tensor | None, scales: tuple[Tensor, Tensor], qmax: int, per_channel: bool, bias_limit: float
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Walk over each channel twice, the second time in the cache."""
        if not _is_dense(weight):
            return by_operators.weight_integers(weight, bias, scales, qmax, per_channel, bias_limit)
        channels = weight.shape[0]
        scale, multiplier, w_int = torch.empty(channels), torch.empty(channels), torch.empty_like(weight, dtype=torch.int8)
        b_int = None if bias is None else torch.empty(channels)
        self.library.weight_integers(
            *(weight.data_ptr(), _pointer(bias), channels, weight.numel() // channels, *(s.data_ptr() for s in scales)),
            *(qmax, SMALLEST_SCALE, bias_limit, per_channel),
            *(scale.data_ptr(), w_int.data_ptr(), _pointer(b_int), multiplier.data_ptr()),
        )
        return scale, w_int, b_int, multiplier

    def rounded_weight(self, weight: Tensor, scale: Tensor, factor: Tensor | None) -> Tensor:
        """Walk over the weight."""
        if not _is_dense(weight):
            return by_operators.rounded_weight(weight, scale, factor)
        found, channels = torch.empty_like(weight, requires_grad=False), weight.shape[0]
        size = weight.numel() // channels
        self.library.rounded_weight(found.data_ptr(), weight.data_ptr(), scale.data_ptr(), _pointer(factor), channels, size)
        return found


def of(x: Tensor) -> Passes:
    """Return what computes a pass over a tensor: the walks, if they can and are there, else PyTorch's operators."""
    plain = type(x) in _PLAIN and x.is_cpu and x.dtype is torch.float32
    if not plain or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack():
        return by_operators  # a pass that is captured must consist of operators
    return walks() or by_operators


_PLAIN = (Tensor, torch.nn.Parameter)


def _is_dense(x: Tensor) -> bool:
    return (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)) and x.numel() > 0


@cache
def walks() -> Walks | None:
    """Return the compiled passes; None where they cannot be compiled, or do not compute what the operators do."""
    library = c_library.load(Path(__file__).with_suffix(".c"))
    if library is None:
        return None
    found = Walks(library)
    return found if _is_exact(found) else None


def _is_exact(walks: Walks) -> bool:
    """Return whether the compiled passes give the operators' numbers: of shapes with and without a rest, halves among them."""
    g = torch.Generator().manual_seed(0)
    for channels, size in ((3, 5), (24, 90), (700, 40)):
        acc = torch.randint(-(2**12), 2**12, (9, channels), generator=g).float()
        multiplier = torch.randint(1, 9, (channels,), generator=g) / 16
        weight, bias = torch.randn(channels, size, generator=g), torch.randn(channels, generator=g)
        x, saved = torch.randint(-128, 128, (50, size), generator=g).float(), torch.randint(0, 256, (channels, size), generator=g)
        scales = torch.tensor(0.03), torch.tensor(0.07)
        calls = (
            ("requantize", acc.clone, (multiplier, (-128.0, 100.0), -1)),
            ("to_bytes", x.clone, (-128,)),
            ("mask_by_bytes", weight.clone, (saved.to(torch.uint8), 255.0)),
            ("weight_integers", weight.clone, (bias, scales, 127, True, 2.0**23)),
            ("weight_integers", weight.clone, (None, scales, 7, False, 2.0**23)),
            ("rounded_weight", weight.clone, (multiplier, multiplier)),
        )
        for name, first, rest in calls:
            found, expected = (getattr(by, name)(first(), *rest) for by in (walks, by_operators))
            pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else ((found, expected),)
            if not all(a is b or torch.equal(a, b) for a, b in pairs):
                return False
    return True


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
