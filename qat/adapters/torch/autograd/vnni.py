"""Accumulators by the CPU's instructions for 8-bit integers: the same numbers as in float32, in a fraction of the time.

x86 processors with VNNI multiply bytes and add into int32. oneDNN, which is part of PyTorch, has such kernels with a result in
float32. An accumulator below 2^24 is the same number in both, so that a node may use either, in training and in evaluation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: (strides, padding, dilations, groups) of a convolution.
Geometry = tuple[Any, Any, Any, int]

onednn = torch.ops.onednn

#: The kernel must save more time than the conversions to bytes take. It was measured to do so from this many products for each
#: converted integer. An integer of the input has ``outputs * window / strides`` products, one of the weight one for each pixel.
_PRODUCTS_OF_AN_INPUT, _PRODUCTS_OF_A_WEIGHT = 32, 64


@cache
def available() -> bool:
    """Return whether this processor has the instructions, and this PyTorch the kernels.

    A conversion from float32 to int8 must keep the low byte of a number out of range. No standard promises that: it is tested.
    """
    if not (torch.cpu._is_vnni_supported() and hasattr(onednn, "qconv2d_pointwise")):
        return False
    integers = torch.arange(256.0)
    return all(torch.equal(to_bytes(integers + lo, lo).float(), integers) for lo in (0, -1, -127, -128, -129, -255))


def to_bytes(x: Tensor, lo: int) -> Tensor:
    """Return ``x - lo`` in uint8, for integers in ``[lo, lo + 255]``; the layout in memory stays."""
    found = x.to(torch.int8).view(torch.uint8)
    return found.add_(-lo) if lo else found


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lo: int | None) -> Tensor:
    """Return a convolution's accumulator, float32 [batch, channels, height, width].

    Args:
        x: integers in float32.
        weight: integers in int8.
        bias: integers in float32.
        geometry: strides, padding, dilations, groups.
        lo: ``x`` lies in ``[lo, lo + 255]``; None computes in float32.
    """
    strides, padding, dilations, groups = geometry
    window = weight.shape[2:].numel()  # in Python: an operator on a tensor takes longer
    products = weight.shape[0] * window / (strides[0] * strides[1])
    pixels = x.numel() / (x.shape[1] * strides[0] * strides[1])
    if lo is None or groups > 1 or not _pays(x, products, pixels):
        return F.conv2d(x, weight.float(), bias, strides, padding, dilations, groups)
    rows = to_bytes(x.contiguous(memory_format=torch.channels_last), lo)
    result = _convolution(rows, weight, bias, geometry, lo)
    return in_plain_layout(result) if prefers_plain_layout(weight, result) else result


def _convolution(rows: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, lo: int) -> Tensor:
    """Return the kernel's accumulator of an input in bytes, channels last in memory."""
    one, zero = _neutral()
    packed = onednn.qconv_prepack(weight, one, 1.0, -lo, *geometry, rows.shape)
    result: Tensor = onednn.qconv2d_pointwise.default(
        rows, 1.0, -lo, packed, one, zero, bias, *geometry, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


def prefers_plain_layout(weight: Tensor, result: Tensor) -> bool:
    """Return whether a convolution's backward pass is faster with channels second.

    It is where the weight has that layout and is larger than the result: converting the weight costs more than the result.
    """
    return weight.numel() > result.numel() and weight.shape[2:].numel() > 1 and weight.is_contiguous()


def in_plain_layout(x: Tensor) -> Tensor:
    """Return ``x`` with channels second; a copy where it has another layout."""
    return x.contiguous() if x.device.type == "cpu" else x


def linear(x: Tensor, stored: Tensor, weight: Tensor, bias: Tensor | None, lo: int | None) -> Tensor:
    """Return a fully connected layer's accumulator.

    The arguments are those of :func:`conv2d`; ``stored`` has ``x`` in bytes, less ``lo``, where that is not None. The kernel is
    that of a 1x1 convolution of an image of height 1, whose weight is packed in a quarter of the time.
    """
    rows = x.numel() // x.shape[-1]
    if lo is None or not _pays(x, weight.shape[0], rows):
        return F.linear(x, weight.float(), bias)
    image = stored.reshape(1, rows, 1, x.shape[-1]).permute(0, 3, 1, 2)
    result = _convolution(image, weight[..., None, None], bias, ((1, 1), (0, 0), (1, 1), 1), lo)
    return result.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def to_table_index(x: Tensor, first: int) -> Tensor:
    """Return ``x - first`` in uint8: the index of each integer in a table whose first entry is that of ``first``."""
    return to_bytes(x, first) if _on_this_processor(x) else (x - first).to(torch.uint8)


def as_captured(x: Tensor) -> Tensor:
    """Return ``x`` in the layout of the captured float model, on which the views after it rely."""
    return x if torch.compiler.is_compiling() or not available() else in_plain_layout(x)


def _pays(x: Tensor, products: float, pixels: float) -> bool:
    return products >= _PRODUCTS_OF_AN_INPUT and pixels >= _PRODUCTS_OF_A_WEIGHT and _on_this_processor(x)


def _on_this_processor(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and available()


@cache
def _neutral() -> tuple[Tensor, Tensor]:
    """Return a scale of 1 and a zero point of 0 for all channels: packing reads each entry."""
    return torch.ones(1), torch.zeros(1, dtype=torch.int32)
