"""Operators of ``com.microsoft``, which ONNX Runtime's optimizer writes.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F

from . import elementwise, quantized
from .linear import conv, product
from .normalization import layer_norm
from .operator import Operand, Operator, Result, Rows


def _activated(n: Operator, y: Any) -> Operand:
    """Apply the activation that a convolution is fused with."""
    name, parameters = n.attr("activation", ""), list(n.attr("activation_params", ()))
    functions: dict[str, Any] = {"": None, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh}
    if name in functions:
        return y if not name else n.call(functions[name], y)
    if name == "LeakyRelu":
        return n.call(F.leaky_relu, y, *parameters[:1])
    if name == "Clip":
        return n.call(torch.clamp, y, *parameters[:2])
    if name == "HardSigmoid":
        return n.call(torch.clamp, n.call(operator.add, n.call(operator.mul, y, parameters[0]), parameters[1]), 0.0, 1.0)
    n.refuse(f"ends in {name}", "let ONNX Runtime write the model with ORT_ENABLE_BASIC")


def _fused_conv(n: Operator) -> Result:
    y: Any = conv(n)
    if n.get(3) is not None:
        y = n.call(torch.add, y, n[3])
    return _activated(n, y)


def _fused_matmul(n: Operator) -> Result:
    a, b = (n.call(torch.transpose, x, -2, -1) if n.attr(name, 0) else x for x, name in ((n[0], "transA"), (n[1], "transB")))
    y, alpha = product(n, a, b), n.attr("alpha", 1.0)
    return y if alpha == 1 else n.call(operator.mul, y, alpha)


def _biased(n: Operator, x: Operand, index: int) -> Operand:
    return x if n.get(index) is None else n.call(torch.add, x, n[index])


def _quick_gelu(n: Operator) -> Result:
    return n.call(torch.mul, n[0], n.call(torch.sigmoid, n.call(operator.mul, n[0], n.attr("alpha", 1.702))))


def _skip_layer_norm(n: Operator) -> Result:
    """Inputs: x, skip, gamma, beta, bias. Outputs: the normalized sum, two that are not computed, and the sum."""
    total = _biased(n, n.call(torch.add, n[0], n[1]), 4)
    return [layer_norm(n, total, n[2], n.get(3), -1, n.attr("epsilon", 1e-12)), None, None, total]


def _skip_rms_norm(n: Operator) -> Result:
    """Inputs: x, skip, gamma, bias."""
    total = _biased(n, n.call(torch.add, n[0], n[1]), 3)
    shape = n.fixed_from(total, n.rank(total) - 1)
    return [n.call(F.rms_norm, total, shape, n[2], n.attr("epsilon", 1e-12)), None, None, total]


def _multi_head_attention(n: Operator) -> Result:
    """Attention of [batch, length, heads * size] tensors, without masks and past keys."""
    if any(n.get(i) is not None for i in range(4, len(n.inputs))) or n.get(1) is None or n.get(2) is None:
        n.refuse("has a mask or past keys", "export the model without, or let ONNX Runtime write it with ORT_ENABLE_BASIC")
    heads, bias = n.attr("num_heads"), n.get(3)
    parts: list[Operand] = [n[0], n[1], n[2]]
    if bias is not None:
        width = n.fixed_from(parts[0], 2)[0]
        parts = [
            n.call(torch.add, x, n.call(torch.ops.aten.slice.Tensor, bias, 0, i * width, (i + 1) * width))
            for i, x in enumerate(parts)
        ]
    split = [n.call(torch.transpose, n.call(torch.unflatten, x, 2, [heads, -1]), 1, 2) for x in parts]
    scale = n.attr("scale", 0.0) or 1 / math.sqrt(n.fixed_from(split[0], 3)[0])
    y = n.call(F.scaled_dot_product_attention, *split, None, 0.0, bool(n.attr("unidirectional", 0)), scale=scale)
    return [n.call(torch.flatten, n.call(torch.transpose, y, 1, 2), 2), None, None]


ROWS: Rows = {
    **quantized.MICROSOFT,
    "FusedConv": _fused_conv,
    "FusedMatMul": _fused_matmul,
    "Gelu": elementwise.ROWS["Gelu"],
    "BiasGelu": lambda n: n.call(F.gelu, n.call(torch.add, n[0], n[1])),
    "FastGelu": lambda n: n.call(F.gelu, _biased(n, n[0], 1), approximate="tanh"),
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "MultiHeadAttention": _multi_head_attention,
}
