"""Pooling. Opsets before 10 lack ``ceil_mode``, ``dilations`` and ``count_include_pad``, and mean the defaults."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .operator import Length, Operand, Operator, Result, Rows
from .paddings import padded, sides

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window(n: Operator) -> tuple[list[int], list[int], list[int], bool]:
    """Return kernel, strides, dilations, and whether a last window that the padding does not fill counts."""
    kernel = list(n.attr("kernel_shape", ()))
    if len(kernel) not in _MAX or n.rank(n[0]) != len(kernel) + 2:
        n.refuse(f"has a window of {len(kernel)} axes over a tensor of {n.rank(n[0])}")
    ones = [1] * len(kernel)
    return kernel, list(n.attr("strides", ones)), list(n.attr("dilations", ones)), bool(n.attr("ceil_mode", 0))


def _max_pool(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__MaxPool.html."""
    kernel, strides, dilations, ceil = _window(n)
    x = n[0]
    before, after = sides(n, n.shape(x)[2:], kernel, strides, dilations)
    if before == after and all(isinstance(b, int) and 2 * b <= k for b, k in zip(before, kernel, strict=True)):
        return [n.call(_MAX[len(kernel)], x, kernel, strides, before, dilations, ceil), None]
    x = padded(n, x, before, after, float("-inf")) if n.is_float(x) else padded(n, x, before, after, torch.iinfo(n.dtype(x)).min)
    return [n.call(_MAX[len(kernel)], x, kernel, strides, 0, dilations, ceil), None]


def _average_pool(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__AveragePool.html."""
    kernel, strides, dilations, ceil = _window(n)
    if set(dilations) != {1}:
        n.refuse("is an average of dilated windows, which PyTorch does not have")
    x, function = n[0], _AVERAGE[len(kernel)]
    before, after = sides(n, n.shape(x)[2:], kernel, strides, dilations)
    counted = bool(n.attr("count_include_pad", 0))
    if before == after and all(isinstance(b, int) and 2 * b <= k for b, k in zip(before, kernel, strict=True)):
        return n.call(function, x, kernel, strides, before, ceil, counted)
    y = n.call(function, padded(n, x, before, after), kernel, strides, 0, ceil)
    if counted:
        return y
    # The mean of the padded image divides by the window; the share of true pixels in each window undoes that.
    share = n.call(function, padded(n, _ones(n, n.shape(x)[2:]), before, after), kernel, strides, 0, ceil)
    return n.call(torch.mul, y, n.call(torch.reciprocal, share))


def _ones(n: Operator, sizes: list[Length]) -> Operand:
    return n.call(torch.ones, [1, 1, *sizes])


def _axes(n: Operator) -> list[int]:
    return list(range(2, n.rank(n[0])))


ROWS: Rows = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda n: n.call(torch.mean, n[0], _axes(n), True),
    "GlobalMaxPool": lambda n: n.call(torch.amax, n[0], _axes(n), True),
}
