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
    "requantize": (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_float, c_float, c_int32),
    "round_clamp": (c_void_p, c_void_p, c_int64, c_float, c_float),
    "product": (*[c_void_p] * 4, c_int64, c_int64, c_int64, c_float, c_float),
    "product_gradients": (*[c_void_p] * 6, c_int64, c_int64, c_int64),
    "look_up": (c_void_p, c_void_p, c_void_p, c_int64),
    "look_up_times": (c_void_p, c_void_p, c_void_p, c_void_p, c_int64),
    "to_bytes": (c_void_p, c_void_p, c_int64, c_int32),
    "from_bytes": (c_void_p, c_void_p, c_int64, c_int32),
    "mask_by_bytes": (c_void_p, c_void_p, c_void_p, c_int64, c_int32, c_int32),
    "weight_integers": (*(c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_float, c_float, c_float, c_int32),
                        *(c_void_p, c_void_p, c_void_p, c_void_p)),
    "rounded_weight": (c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64),
}  # fmt: skip


class Passes(Protocol):
    """What a kernel does besides its products; :mod:`.by_operators` says what each of them returns."""

    def requantize(
        self, acc: Tensor, multiplier: Tensor | None, limits: Limits, axis: int, first: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the output's integers, in the memory of the accumulator, and in bytes."""

    def round_clamp(self, v: Tensor, limits: Limits) -> Tensor:
        """Return unrounded integers rounded, within limits."""

    def product(self, a: Tensor, b: Tensor, factor: Tensor, limits: Limits) -> Tensor:
        """Return the integers of a product of two activations."""

    def product_gradients(self, grad: Tensor, a: Tensor, b: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of both."""

    def look_up(self, index: Tensor, table: Tensor) -> Tensor:
        """Return a table's entries by an index in bytes."""

    def look_up_times(self, index: Tensor, table: Tensor, grad: Tensor) -> Tensor:
        """Return a table's entries times a gradient."""

    def to_bytes(self, x: Tensor, lo: int) -> Tensor:
        """Return integers in bytes."""

    def from_bytes(self, kept: Tensor, lo: int) -> Tensor:
        """Return the integers that bytes stand for."""

    def mask_by_bytes(self, grad: Tensor, saved: Tensor, limits: Limits) -> Tensor:
        """Return a gradient where a byte is strictly within limits."""

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

    def requantize(
        self, acc: Tensor, multiplier: Tensor | None, limits: Limits, axis: int, first: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Walk over rows of channels; one multiplier of all is one of rows of one."""
        multiplier = _one() if multiplier is None else multiplier
        size, channels = acc.numel(), multiplier.numel()
        rows = channels == 1 or acc.is_contiguous(memory_format=torch.channels_last if axis == 1 else torch.contiguous_format)
        if not (size and rows and (kept := _like(acc, torch.uint8)) is not None):
            return by_operators.requantize(acc, multiplier, limits, axis, first)
        bytes = None if first is None else kept
        pointers = acc.data_ptr(), multiplier.data_ptr(), _pointer(bytes)
        self.library.requantize(*pointers, size // channels, channels, *limits, first or 0)
        return acc, bytes

    def round_clamp(self, v: Tensor, limits: Limits) -> Tensor:
        """Walk over all values."""
        if not _is_dense(v):
            return by_operators.round_clamp(v, limits)
        found = torch.empty_like(v)
        self.library.round_clamp(found.data_ptr(), v.data_ptr(), v.numel(), *limits)
        return found

    def product(self, a: Tensor, b: Tensor, factor: Tensor, limits: Limits) -> Tensor:
        """Walk over the larger one."""
        if a.numel() < b.numel():
            a, b = b, a
        if (rows := _rows(a, b)) is None:
            return by_operators.product(a, b, factor, limits)
        found = torch.empty_like(a)
        self.library.product(*(t.data_ptr() for t in (found, a, b, factor)), *rows, *limits)
        return found

    def product_gradients(self, grad: Tensor, a: Tensor, b: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Walk over the larger one; PyTorch sums the gradient of the other."""
        if a.numel() < b.numel():
            of_b, of_a = self.product_gradients(grad, b, a, factor)
            return of_a, of_b
        if (rows := _rows(a, b)) is None or grad.stride() != a.stride():
            return by_operators.product_gradients(grad, a, b, factor)
        of_a, of_b = torch.empty_like(a), torch.empty_like(a)
        self.library.product_gradients(*(t.data_ptr() for t in (of_a, of_b, grad, a, b, factor)), *rows)
        return of_a, of_b.sum_to_size(b.shape)

    def look_up(self, index: Tensor, table: Tensor) -> Tensor:
        """Walk over the index."""
        if len(table) < 256 or not _is_dense(index):
            return by_operators.look_up(index, table)
        found = torch.empty_like(index, dtype=torch.float32)
        self.library.look_up(found.data_ptr(), index.data_ptr(), table.data_ptr(), index.numel())
        return found

    def look_up_times(self, index: Tensor, table: Tensor, grad: Tensor) -> Tensor:
        """Walk over the index and the gradient."""
        if len(table) < 256 or grad.stride() != index.stride() or not _is_dense(index):
            return by_operators.look_up_times(index, table, grad)
        found = torch.empty_like(grad)
        pointers = (t.data_ptr() for t in (found, index, table, grad))
        self.library.look_up_times(*pointers, index.numel())
        return found

    def to_bytes(self, x: Tensor, lo: int) -> Tensor:
        """Walk over all values."""
        if (found := _like(x, torch.uint8)) is None:
            return by_operators.to_bytes(x, lo)
        self.library.to_bytes(found.data_ptr(), x.data_ptr(), x.numel(), lo)
        return found

    def from_bytes(self, kept: Tensor, lo: int) -> Tensor:
        """Walk over all values."""
        if (found := _like(kept, torch.float32)) is None:
            return by_operators.from_bytes(kept, lo)
        self.library.from_bytes(found.data_ptr(), kept.data_ptr(), kept.numel(), lo)
        return found

    def mask_by_bytes(self, grad: Tensor, saved: Tensor, limits: Limits) -> Tensor:
        """Walk over all values."""
        if grad.stride() != saved.stride() or (found := _like(grad, torch.float32)) is None:
            return by_operators.mask_by_bytes(grad, saved, limits)
        self.library.mask_by_bytes(*(t.data_ptr() for t in (found, grad, saved)), grad.numel(), *map(int, limits))
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
    plain = type(x) in _PLAIN and x.is_cpu and x.dtype in (torch.float32, torch.uint8)
    if not plain or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack():
        return by_operators  # a pass that is captured must consist of operators
    return walks() or by_operators


_PLAIN = (Tensor, torch.nn.Parameter)


def _is_dense(x: Tensor) -> bool:
    return (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)) and x.numel() > 0


def _like(x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return new memory in a tensor's layout, whatever the order of its axes; None where it is empty, has gaps, or overlaps."""
    found = torch.empty_like(x, dtype=dtype, requires_grad=False)
    return found if x.numel() and found.stride() == x.stride() else None


@cache
def _one() -> Tensor:
    return torch.ones(1)


def _rows(a: Tensor, b: Tensor) -> tuple[int, int, int] | None:
    """Return how ``b`` lies beside ``a``: images, rows of each and channels, where ``b`` has one row of channels for each image.

    None where it lies otherwise.
    """
    if a.dtype != b.dtype or not (_is_dense(a) and _is_dense(b)):
        return None
    if a.shape == b.shape and a.stride() == b.stride():
        return len(a), 1, a.numel() // len(a)
    if a.ndim == 4 and b.ndim == 4 and a.is_contiguous(memory_format=torch.channels_last) and b.shape[1:] == (a.shape[1], 1, 1):
        images = len(b)
        return (images, a.numel() // b.numel(), a.shape[1]) if images in (1, len(a)) else None
    return None


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
        scales, table = (torch.tensor(0.03), torch.tensor(0.07)), torch.randn(256, generator=g)
        calls = (
            ("requantize", acc.clone, (multiplier, (-128.0, 100.0), -1, -128)),
            ("requantize", (acc / 8).clone, (None, (-128.0, 100.0), -1, -128)),
            ("round_clamp", (acc / 8).clone, ((-128.0, 100.0),)),
            ("product", acc.clone, (acc, scales[0], (-128.0, 100.0))),
            ("product_gradients", acc.clone, (acc, acc, scales[0])),
            ("look_up", saved.to(torch.uint8).clone, (table,)),
            ("look_up_times", saved.to(torch.uint8).clone, (table, weight)),
            ("to_bytes", x.clone, (-128,)),
            ("from_bytes", saved.to(torch.uint8).clone, (-128,)),
            ("mask_by_bytes", weight.clone, (saved.to(torch.uint8), (3.0, 255.0))),
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
