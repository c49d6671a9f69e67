"""Convolutions and products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .operator import Known, Length, Operand, Operator, Result, Rows
from .paddings import padded, sides

_CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window(n: Operator, weight: Operand) -> tuple[list[int], list[int], list[int]]:
    """Return kernel, strides and dilations of a convolution; the kernel is the weight's."""
    kernel = n.fixed(weight)[2:]
    if len(kernel) not in _CONVOLUTIONS:
        n.refuse(f"has a kernel of {len(kernel)} axes, and PyTorch's have one to three")
    ones = [1] * len(kernel)
    return kernel, list(n.attr("strides", ones)), list(n.attr("dilations", ones))


def conv(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Conv.html."""
    x, weight, bias = n[0], n[1], flat(n, n.get(2))
    kernel, strides, dilations = window(n, weight)
    before, after = sides(n, n.shape(x)[2:], kernel, strides, dilations)
    padding: list[Length] = before
    if before != after:
        x, padding = padded(n, x, before, after), [0] * len(kernel)
    return n.call(_CONVOLUTIONS[len(kernel)], x, weight, bias, strides, padding, dilations, n.attr("group", 1))


def _conv_transpose(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html: ``output_shape`` decides the padding where it is given."""
    x, weight, bias = n[0], n[1], flat(n, n.get(2))
    kernel, strides, dilations = window(n, weight)
    extra = list(n.attr("output_padding", [0] * len(kernel)))
    before, after = _cut(n, x, kernel, strides, dilations, extra)
    # PyTorch cuts both sides alike; what one side has more is cut from the result, or added to it.
    both = [min(b, a) for b, a in zip(before, after, strict=True)]
    rest = [(b - c, a - c - e) for b, a, c, e in zip(before, after, both, extra, strict=True)]
    extra = [max(0, -more) if not first else 0 for first, more in rest]
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        n.refuse("has an output_padding beyond its stride, which PyTorch does not take", "export it without")
    function = _TRANSPOSED[len(kernel)]
    y = n.call(function, x, weight, bias, strides, both, extra, n.attr("group", 1), dilations)
    for axis, (first, more) in enumerate(rest, 2):
        if first or more > 0:
            y = n.call(torch.ops.aten.slice.Tensor, y, axis, first, n.shape(y)[axis] - max(more, 0))
    return y


def _cut(
    n: Operator, x: Operand, kernel: list[int], strides: list[int], dilations: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    """Return how much of the whole result is cut at both sides of each axis."""
    wanted, auto, count = n.attr("output_shape"), n.attr("auto_pad", "NOTSET"), len(kernel)
    if wanted is None and auto == "NOTSET":
        pads = list(n.attr("pads", [0] * 2 * count))
        return pads[:count], pads[count:]
    if wanted is None and auto == "VALID":
        return [0] * count, [0] * count
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    if wanted is None:  # SAME: as many times the input's size as the stride
        totals = [e + span - stride for e, span, stride in zip(extra, spans, strides, strict=True)]
    else:
        sizes = n.fixed(x)[2:]
        totals = [
            stride * (size - 1) + e + span - out
            for stride, size, e, span, out in zip(strides, sizes, extra, spans, list(wanted)[-count:], strict=True)
        ]
    totals = [max(total, 0) for total in totals]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def flat(n: Operator, bias: Operand | None) -> Operand | None:
    """Return a bias, which may lie along an axis of a tensor, as a vector."""
    if not isinstance(bias, Known) or bias.array.ndim == 1:
        return bias
    return Known(bias.name, bias.array.reshape(-1), bias.trained)


def transposed(n: Operator, weight: Operand) -> Operand:
    """Return a matrix transposed; a constant is transposed here."""
    if isinstance(weight, Known) and not weight.symbolic:
        return Known(weight.name, np.ascontiguousarray(weight.array.T), weight.trained)
    return n.call(torch.transpose, weight, -2, -1)


def product(n: Operator, x: Operand, weight: Operand, bias: Operand | None = None) -> Operand:
    """Multiply by a matrix; one of constants is the weight of a fully connected layer."""
    if isinstance(weight, Known) and weight.array.ndim == 2:
        return n.call(F.linear, x, transposed(n, weight), bias)
    y = n.call(torch.matmul, x, weight)
    return y if bias is None else n.call(torch.add, y, bias)


def _gemm(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Gemm.html: ``alpha A' B' + beta C``."""
    a, b, c = n[0], n[1], n.get(2)
    alpha, beta = n.attr("alpha", 1.0), n.attr("beta", 1.0)
    a = n.call(torch.t, a) if n.attr("transA", 0) else a
    if not isinstance(b, Known):
        y = n.call(torch.matmul, a, n.call(torch.t, b) if n.attr("transB", 0) else b)
        y = y if alpha == 1 else n.call(torch.mul, y, alpha)
        return y if c is None else n.call(torch.add, y, c if beta == 1 else n.call(torch.mul, c, beta))
    weight = b if n.attr("transB", 0) else transposed(n, b)
    weight, c = times(weight, alpha), c if c is None else times(c, beta) if isinstance(c, Known) else n.call(torch.mul, c, beta)
    outputs = n.fixed(weight)[0]
    if (
        isinstance(c, Known)
        and (c.array.size == outputs or c.array.size == 1)
        and c.array.ndim <= 2
        and c.array.shape[:-1] in ((), (1,))
    ):
        return n.call(F.linear, a, weight, Known(c.name, np.broadcast_to(c.array.reshape(-1), (outputs,)).copy(), c.trained))
    y = n.call(F.linear, a, weight)
    return y if c is None else n.call(torch.add, y, c)


def times(weight: Operand, factor: float) -> Operand:
    """Return constants times a number."""
    if not isinstance(weight, Known) or factor == 1:
        return weight
    return Known(weight.name, (weight.array * np.float32(factor)).astype(weight.array.dtype), weight.trained)


def _matmul(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__MatMul.html. The third input is a bias: :mod:`qat.sources.onnx.biases`."""
    return product(n, n[0], n[1], n.get(2))


def _einsum(n: Operator) -> Result:
    return n.call(torch.einsum, n.attr("equation"), *n.inputs)


ROWS: Rows = {"Conv": conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul, "Einsum": _einsum}
