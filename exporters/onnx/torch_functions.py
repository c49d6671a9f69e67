"""Functions that ``torch.onnx`` lacks, or writes with another result than PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset18 as op


def _number(value: float, like: Any) -> Any:
    constant: Any = op.Constant(value_float=value)
    return op.CastLike(constant, like)


def _atan2(y: Any, x: Any) -> Any:
    """Return the angle of a point: pi for a positive or zero ``y`` left of the origin, and 0 in it.

    torch.onnx writes -pi for a ``y`` of zero, and NaN in the origin.
    """
    zero = _number(0.0, y)
    pi = _number(math.pi, y)
    angle = op.Atan(op.Div(y, x))
    behind = op.Where(op.GreaterOrEqual(y, zero), op.Add(angle, pi), op.Sub(angle, pi))
    angle = op.Where(op.Less(x, zero), behind, angle)
    return op.Where(op.And(op.Equal(x, zero), op.Equal(y, zero)), zero, angle)


def _copysign(x: Any, y: Any) -> Any:
    """Return ``x`` with the sign of ``y``; a zero has none."""
    return op.Where(op.Less(y, _number(0.0, y)), op.Neg(op.Abs(x)), op.Abs(x))


def _cdist(x: Any, y: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    """Return the distances of each row of ``x`` to each row of ``y``, which torch.onnx does not write."""
    last: Any = op.Constant(value_ints=[-1])
    of_rows: Any = op.Constant(value_ints=[-2])
    of_others: Any = op.Constant(value_ints=[-3])
    apart = op.Abs(op.Sub(op.Unsqueeze(x, of_rows), op.Unsqueeze(y, of_others)))
    if p == math.inf:
        return op.ReduceMax(apart, last, keepdims=0)
    if p == 1:
        return op.ReduceSum(apart, last, keepdims=0)
    if p == 2:
        return op.Sqrt(op.ReduceSum(op.Mul(apart, apart), last, keepdims=0))
    total = op.ReduceSum(op.Pow(apart, _number(p, apart)), last, keepdims=0)
    return op.Pow(total, _number(1 / p, total))


#: By operator: the function that writes it, for ``custom_translation_table``.
FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.atan2.default: _atan2,
    torch.ops.aten.copysign.Tensor: _copysign,
    torch.ops.aten._cdist_forward.default: _cdist,
}
