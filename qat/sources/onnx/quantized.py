"""Operators of files that are quantized already."""

from __future__ import annotations

import operator

import numpy as np
import torch

from .operator import Known, Operator, Result, Rows


def _refuse(n: Operator) -> Result:
    n.refuse("shows that the file is quantized already", "load the float file that it was made from")


def _dequantize(n: Operator) -> Result:
    """A weight that is stored in integers becomes one of real numbers; an activation in integers is refused.

    Source: https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html: ``(x - zero_point) * scale``.
    """
    x, scale = n[0], n[1]
    if not isinstance(x, Known) or not isinstance(scale, Known):
        return _refuse(n)
    zero = n.get(2)
    points = zero.array if isinstance(zero, Known) else np.zeros_like(scale.array)
    axis, block, sizes = n.attr("axis", 1), n.attr("block_size", 0), x.array.shape

    def spread(values: np.ndarray) -> np.ndarray:
        if block:
            return np.repeat(values, block, axis)[tuple(slice(size) for size in sizes)]
        return values if values.ndim == 0 else values.reshape([-1 if a == axis % len(sizes) else 1 for a in range(len(sizes))])

    shifted = n.call(operator.sub, Known("", x.array.astype(np.float32)), Known("", spread(points).astype(np.float32)))
    return n.call(torch.mul, shifted, Known("", spread(scale.array)))


ROWS: Rows = {
    "DequantizeLinear": _dequantize,
    **dict.fromkeys(
        ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"), _refuse
    ),
}
#: Quantized operators of ``com.microsoft``.
MICROSOFT: Rows = dict.fromkeys(
    (
        "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearConcat", "QLinearGlobalAveragePool",
        "QLinearAveragePool", "QLinearSoftmax", "QLinearReduceMean", "QLinearWhere", "QGemm", "QAttention", "QuantizeLinear",
        "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits",
    ),
    _refuse,
)  # fmt: skip
