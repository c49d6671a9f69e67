"""Accumulators by the CPU's instructions for 8-bit integers: the same numbers as in float32, in a fraction of the time.

x86 processors with VNNI multiply bytes and add into int32. Those without it add pairs of products in 16 bits first, which hold
them where weights have 7 bits. oneDNN, which is part of PyTorch, has such kernels with a result in float32. An accumulator below
2^24 is the same number in both, so that a node may use either, in training and in evaluation. Which of both is faster for a shape
is measured (:mod:`.kernel_choice`), with the conversion to bytes where these are not kept anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .kept_bytes import keep
from .kernel_choice import Form, Kernel

#: (strides, padding, dilations, groups) of a convolution.
Geometry = tuple[Any, Any, Any, int]

#: Returns an int8 weight in the kernel's own layout, of: the weight, the geometry, ``lo``, and the shape of the input.
Pack: TypeAlias = Callable[[Tensor, Geometry, int, torch.Size], Tensor]

onednn = torch.ops.onednn


def pack(weight: Tensor, geometry: Geometry, lo: int, shape: torch.Size) -> Tensor:
    """Return an int8 weight in the layout that the kernel wants for an input of a shape."""
    one, _ = _neutral()
    packed: Tensor = onednn.qconv_prepack(weight, one, 1.0, -lo, *geometry, shape)
    return packed


class Packed:
    """:func:`pack` of one weight, which keeps the last one: batches mostly have the same shape."""

    def __init__(self) -> None:
        self._last: tuple[Any, Tensor] | None = None

    def __call__(self, weight: Tensor, geometry: Geometry, lo: int, shape: torch.Size) -> Tensor:
        """Return the packed weight."""
        last, key = self._last, (lo, shape)
        if last is None or last[0] != key:
            last = self._last = key, pack(weight, geometry, lo, shape)
        return last[1]


#: The largest weight of which two products with a byte fit 16 bits: 2 * 255 * 64.
_NARROW = 64


def exact(qmax: int) -> bool:
    """Return whether there are kernels for bytes whose sums are exact, with weights up to ``qmax``."""
    return _vnni() or (qmax <= _NARROW and _pairs())


@cache
def _vnni() -> bool:
    return torch.cpu._is_vnni_supported() and hasattr(onednn, "qconv2d_pointwise")


@cache
def _pairs() -> bool:
    """Return whether this is an x86 processor that adds pairs of products in 16 bits, and this PyTorch has the kernels."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") and hasattr(onednn, "qconv2d_pointwise")


def _words(lo: int | None, qmax: int, packs: Pack) -> tuple[str | None, ...]:
    """Return what decides how long a kernel takes, besides shapes: whether it can be one of bytes, a packed weight."""
    return "in bytes" if lo is not None and exact(qmax) else None, None if packs is pack else "packed"


def _in_float32(
    x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lo: int | None, qmax: int, pack: Pack
) -> Tensor:
    return _last(F.conv2d(x, weight.float(), bias, *geometry))


def _in_channels_last(
    x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lo: int | None, qmax: int, pack: Pack
) -> Tensor:
    return F.conv2d(x.contiguous(memory_format=torch.channels_last), weight.float(), bias, *geometry)


def _in_bytes(
    x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lo: int, qmax: int, pack: Pack
) -> Tensor:
    return _convolution(_last(_as_bytes(stored, lo)), weight, bias, geometry, lo, pack)


def _as_bytes(stored: Tensor, lo: int) -> Tensor:
    """Return an input in bytes, which it may be already."""
    return stored if stored.dtype is torch.uint8 else keep(stored, lo)


def _last(x: Tensor) -> Tensor:
    """Return images channels last: one layout for all, on a processor that of its fastest kernels, spares copies between them."""
    return x if torch.compiler.is_compiling() or x.device.type != "cpu" else x.contiguous(memory_format=torch.channels_last)


#: A convolution's accumulator, float32 [batch, channels, height, width], channels last in memory, of: the input's integers in
#: float32; the same as they are kept, in bytes or not; the weight's in int8; the bias's in float32, or None; the geometry;
#: ``lo``: the input lies in ``[lo, lo + 255]``, None where it may not; the largest weight; what packs the weight.
conv2d = Kernel(
    "convolution",
    (
        Form("float32", _in_float32),
        Form("channels_last", _in_channels_last, lambda x, *rest: not x.is_contiguous(memory_format=torch.channels_last)),
        Form("bytes", _in_bytes, lambda x, stored, weight, bias, geometry, lo, qmax, pack: lo is not None and exact(qmax)),
    ),
    batches=2,
    asked=lambda x, stored, weight, bias, geometry, lo, qmax, pack: (x, stored, weight, geometry, *_words(lo, qmax, pack)),
    exact=True,
)


def _convolution(rows: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lo: int, pack: Pack) -> Tensor:
    """Return the kernel's accumulator of an input in bytes, channels last in memory."""
    one, zero = _neutral()
    result: Tensor = onednn.qconv2d_pointwise.default(
        rows, 1.0, -lo, pack(weight, geometry, lo, rows.shape), one, zero, bias, *geometry, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


def linear(x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, lo: int | None, qmax: int, pack: Pack) -> Tensor:
    """Return a fully connected layer's accumulator; the arguments are those of :data:`conv2d`, without a geometry."""
    return _rows_times(x.flatten(0, -2), stored.flatten(0, -2), weight, bias, lo, qmax, pack).view(*x.shape[:-1], len(weight))


def _rows_in_float32(
    x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, lo: int | None, qmax: int, pack: Pack
) -> Tensor:
    return F.linear(x, weight.float(), bias)


def _rows_in_bytes(x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, lo: int, qmax: int, pack: Pack) -> Tensor:
    """Compute as a 1x1 convolution of an image of height 1, whose weight is packed in a quarter of a linear layer's time."""
    image = _as_bytes(stored, lo).reshape(1, len(x), 1, -1).permute(0, 3, 1, 2)
    result = _convolution(image, weight[..., None, None], bias, ((1, 1), (0, 0), (1, 1), 1), lo, pack)
    return result.permute(0, 2, 3, 1).reshape(len(x), -1)


_rows_times = Kernel(
    "fully connected layer",
    (
        Form("float32", _rows_in_float32),
        Form("bytes", _rows_in_bytes, lambda x, stored, weight, bias, lo, qmax, pack: lo is not None and exact(qmax)),
    ),
    batches=2,
    asked=lambda x, stored, weight, bias, lo, qmax, pack: (x, stored, weight, *_words(lo, qmax, pack)),
    exact=True,
)


def as_captured(x: Tensor) -> Tensor:
    """Return ``x`` in the layout of the captured float model, on which the views after it rely."""
    return x if torch.compiler.is_compiling() or x.device.type != "cpu" else x.contiguous()


@cache
def _neutral() -> tuple[Tensor, Tensor]:
    """Return a scale of 1 and a zero point of 0 for all channels: packing reads each entry."""
    return torch.ones(1), torch.zeros(1, dtype=torch.int32)
