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


def _whole(value: int | list[int]) -> Any:
    """Return an integer, or several."""
    return op.Constant(value_int=value) if isinstance(value, int) else op.Constant(value_ints=value)


def _kth_value(x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """Return the k-th smallest values along an axis, and where they are."""
    sorted_values, places = op.TopK(x, _whole([k]), axis=dim, largest=0)
    last = _whole([k - 1]) if keepdim else _whole(k - 1)
    return op.Gather(sorted_values, last, axis=dim), op.Gather(places, last, axis=dim)


def _median(x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    """Return the lower median along an axis, and where it is."""
    return _kth_value(x, (int(x.shape[dim]) + 1) // 2, dim, keepdim)


def _cumulative(greatest: bool) -> Callable[[Any, int], tuple[Any, Any]]:
    """Return the function of the greatest, or the least, values so far, and of where they are: in steps that double."""
    extreme, lowest = (op.Max, -math.inf) if greatest else (op.Min, math.inf)

    def of(x: Any, dim: int, length: int, pick: Callable[..., Any], filling: Any) -> Any:
        axis = _whole([dim])
        step = 1
        while step < length:
            head = op.Slice(x, _whole([0]), _whole([length - step]), axis)
            shifted = op.Pad(head, _whole([step, 0]), filling, axis)
            x = pick(x, shifted)
            step *= 2
        return x

    def cumulative(x: Any, dim: int) -> tuple[Any, Any]:
        length = int(x.shape[dim])
        found = of(x, dim, length, extreme, _number(lowest, x))
        places = _whole([*range(length)])
        if dim % len(x.shape) != len(x.shape) - 1:
            places = op.Unsqueeze(places, _whole([*range(1, len(x.shape) - dim % len(x.shape))]))
        records = op.Where(op.Equal(x, found), places, _whole(0))
        return found, of(records, dim, length, op.Max, _whole(0))

    return cumulative


def _unless_nan(extreme: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return the function of the extreme of two numbers, or of the only one that is a number."""
    return lambda x, y: op.Where(op.IsNaN(x), y, op.Where(op.IsNaN(y), x, extreme(x, y)))


def _rrelu(x: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """Return a leaky ReLU whose slope is the mean of those of training."""
    return op.LeakyRelu(x, alpha=(lower + upper) / 2)


#: By operator: the function that writes it, for ``custom_translation_table``.
FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.atan2.default: _atan2,
    torch.ops.aten.copysign.Tensor: _copysign,
    torch.ops.aten._cdist_forward.default: _cdist,
    torch.ops.aten.kthvalue.default: _kth_value,
    torch.ops.aten.median.dim: _median,
    torch.ops.aten.cummax.default: _cumulative(greatest=True),
    torch.ops.aten.cummin.default: _cumulative(greatest=False),
    torch.ops.aten.fmax.default: _unless_nan(op.Max),
    torch.ops.aten.fmin.default: _unless_nan(op.Min),
    torch.ops.aten.rrelu.default: _rrelu,
}
