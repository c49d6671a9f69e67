"""Operators that pick, place and count elements, and those that make tensors of sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .operator import FIX, Known, Operand, Operator, Result, Rows, Size

_slice = torch.ops.aten.slice.Tensor


def _gather(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__Gather.html. An index from the end is negative."""
    x, index = n[0], n[1]
    axis = n.axis(x, n.attr("axis", 0))
    if not isinstance(index, Known) or index.symbolic:
        if isinstance(x, Known) and x.array.ndim == 2 and axis == 0 and not x.symbolic:
            return n.call(F.embedding, index, x)
        return _picked(n, x, axis, index)
    size, numbers = n.shape(x)[axis], index.array
    if numbers.ndim == 0:
        return n.call(torch.select, x, axis, int(numbers))
    if isinstance(size, int):
        numbers = np.where(numbers < 0, numbers + size, numbers)
    elif (numbers < 0).any():
        n.refuse("counts from the end of a free axis", FIX)
    steps = np.unique(np.diff(numbers)) if numbers.ndim == 1 and numbers.size > 1 else np.array([1])
    if numbers.ndim == 1 and numbers.size and len(steps) == 1 and steps[0] > 0:
        return n.call(_slice, x, axis, int(numbers[0]), int(numbers[-1]) + 1, int(steps[0]))
    return _picked(n, x, axis, Known(index.name, numbers.astype(np.int64)))


def _picked(n: Operator, x: Operand, axis: int, index: Operand) -> Operand:
    shape, sizes = n.shape(index), n.shape(x)
    flat = index if len(shape) == 1 else n.call(torch.reshape, index, [-1])
    y = n.call(torch.index_select, x, axis, flat)
    return y if len(shape) == 1 else n.call(torch.reshape, y, [*sizes[:axis], *shape, *sizes[axis + 1 :]])


def _gather_elements(n: Operator) -> Result:
    axis = n.axis(n[0], n.attr("axis", 0))
    return n.call(torch.gather, n[0], axis, n.call(torch.remainder, n[1], n.fixed_from(n[0], 0)[axis]))


def _gather_nd(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__GatherND.html."""
    if n.attr("batch_dims", 0):
        n.refuse("gathers for each sample apart, which has no row")
    return n.call(torch.ops.aten.index.Tensor, n[0], _coordinates(n, n[1]))


def _coordinates(n: Operator, indices: Operand) -> list[Operand]:
    """Return one index for each axis, of indices that lie along a last axis."""
    last = n.rank(indices) - 1
    return [n.call(torch.select, indices, last, i) for i in range(n.fixed_from(indices, last)[0])]


def _scatter_nd(n: Operator) -> Result:
    if n.attr("reduction", "none") not in ("none", "add"):
        n.refuse("scatters by a product or an extreme, which has no row")
    return n.call(torch.index_put, n[0], _coordinates(n, n[1]), n[2], n.attr("reduction", "none") == "add")


def _scatter_elements(n: Operator) -> Result:
    axis, kind = n.axis(n[0], n.attr("axis", 0)), n.attr("reduction", "none")
    index = n.call(torch.remainder, n[1], n.fixed_from(n[0], 0)[axis])
    if kind == "none":
        return n.call(torch.scatter, n[0], axis, index, n[2])
    reductions = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}
    return n.call(torch.scatter_reduce, n[0], axis, index, n[2], reductions[kind])


def _one_hot(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__OneHot.html: inputs are indices, depth, and the values of off and on."""
    depth, (off, on) = int(n.array(1).reshape(-1)[0]), n.array(2).tolist()
    axis = n.attr("axis", -1) % (n.rank(n[0]) + 1)
    index = n.call(torch.unsqueeze, n.call(torch.remainder, n[0], depth), axis)
    places = np.arange(depth).reshape([-1 if a == axis else 1 for a in range(n.rank(n[0]) + 1)])
    return n.call(torch.where, n.call(torch.eq, index, Known(f"{n.node.name}/places", places)), on, off)


def _trilu(n: Operator) -> Result:
    return n.call(torch.triu if n.attr("upper", 1) else torch.tril, n[0], int(n.number(1, 0) or 0))


def _non_zero(n: Operator) -> Result:
    x = n[0]
    if not isinstance(x, Known):
        n.refuse("finds places by values, so that its output has no size")
    return n.call(torch.t, n.call(torch.nonzero, x))


def _constant_of_shape(n: Operator) -> Result:
    value = n.attr("value", np.zeros(1, np.float32))
    dtype: Any = getattr(torch, value.dtype.name)
    return n.call(torch.full, n.lengths(0), value.reshape(-1)[0].item(), dtype=dtype)


def _range(n: Operator) -> Result:
    """The limits are numbers, or sizes of free axes."""
    limits: list[Any] = []
    for index in range(3):
        operand = n[index]
        if not isinstance(operand, Known):
            n.refuse("counts to a computed number, so that its output has no size")
        number = operand.array.reshape(-1)[0]
        limits.append(number if isinstance(number, Size) else number.item())
    real = any(isinstance(limit, float) for limit in limits)
    return n.call(torch.arange, *limits, dtype=torch.float32 if real else torch.int64)


def _eye_like(n: Operator) -> Result:
    rows, columns = n.fixed(n[0])
    eye = np.eye(rows, columns, n.attr("k", 0), dtype=np.float32)
    return Known(f"{n.node.name}/eye", eye)


def _grid_sample(n: Operator) -> Result:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(n.attr("mode", "bilinear"), n.attr("mode", "bilinear"))
    return n.call(F.grid_sample, n[0], n[1], mode, n.attr("padding_mode", "zeros"), bool(n.attr("align_corners", 0)))


ROWS: Rows = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ScatterElements": _scatter_elements,
    "Scatter": _scatter_elements,
    "OneHot": _one_hot,
    "Trilu": _trilu,
    "NonZero": _non_zero,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
    "GridSample": _grid_sample,
    "Shape": lambda n: Known("", np.array(n.fixed(n[0])[n.attr("start", 0) : n.attr("end", n.rank(n[0]))], np.int64)),
    "Size": lambda n: Known("", np.array(int(np.prod(n.fixed(n[0]))), np.int64)),
}
