"""Reductions over axes. The axes are an attribute in older opsets, an input from 13 (``ReduceSum``) or 18 on (the others)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .operator import Operand, Operator, Result, Row, Rows


def _axes(n: Operator) -> tuple[list[int], bool]:
    """Return the axes, and whether they stay with size 1. No axes are all of them, or with ``noop_with_empty_axes`` none."""
    axes = n.ints("axes", 1)
    if not axes and not n.attr("noop_with_empty_axes", 0):
        axes = list(range(n.rank(n[0])))
    return [n.axis(n[0], axis) for axis in axes or ()], bool(n.attr("keepdims", 1))


def _reduction(
    function: Callable[..., Any], before: Callable[..., Any] | None = None, after: Callable[..., Any] | None = None
) -> Row:
    """Return the row of a reduction, of a function of each number, and before a function of the result."""

    def row(n: Operator) -> Result:
        axes, keep = _axes(n)
        x = n[0] if before is None else n.call(before, n[0])
        y = n.call(function, x, axes, keep) if axes else x
        if n.dtype(y) != n.dtype(n[0]):  # PyTorch adds small integers as large ones
            y = n.call(torch.Tensor.to, y, n.dtype(n[0]))
        return y if after is None else n.call(after, y)

    return row


def _product(n: Operator) -> Result:
    axes, keep = _axes(n)
    y: Operand = n[0]
    for axis in sorted(axes, reverse=True):
        y = n.call(torch.prod, y, axis, keep)
    return y


def _extreme_index(function: Callable[..., Any]) -> Row:
    """Return the row of the index of a maximum or minimum; the last one of several is that of the reversed axis."""

    def row(n: Operator) -> Result:
        x, axis, keep = n[0], n.axis(n[0], n.attr("axis", 0)), bool(n.attr("keepdims", 1))
        if not n.attr("select_last_index", 0):
            return n.call(function, x, axis, keep)
        index = n.call(function, n.call(torch.flip, x, [axis]), axis, keep)
        return n.call(torch.rsub, index, n.fixed(x)[axis] - 1)

    return row


def _cumulated(n: Operator) -> Result:
    """Source: https://onnx.ai/onnx/operators/onnx__CumSum.html."""
    x, axis = n[0], n.axis(n[0], int(n.array(1).reshape(-1)[0]))
    reverse = bool(n.attr("reverse", 0))
    turned = n.call(torch.flip, x, [axis]) if reverse else x
    total = n.call(torch.cumsum, turned, axis)
    total = n.call(torch.sub, total, turned) if n.attr("exclusive", 0) else total
    return n.call(torch.flip, total, [axis]) if reverse else total


def _top_k(n: Operator) -> Result:
    count = n.attr("k") if n.get(1) is None else int(n.array(1).reshape(-1)[0])
    return n.calls(torch.topk, n[0], count, n.attr("axis", -1), bool(n.attr("largest", 1)), bool(n.attr("sorted", 1)))


ROWS: Rows = {
    "ReduceMean": _reduction(torch.mean),
    "ReduceSum": _reduction(torch.sum),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMin": _reduction(torch.amin),
    "ReduceProd": _product,
    "ReduceL1": _reduction(torch.sum, before=torch.abs),
    "ReduceL2": _reduction(torch.sum, before=torch.square, after=torch.sqrt),
    "ReduceLogSum": _reduction(torch.sum, after=torch.log),
    "ReduceLogSumExp": _reduction(torch.logsumexp),
    "ReduceSumSquare": _reduction(torch.sum, before=torch.square),
    "ArgMax": _extreme_index(torch.argmax),
    "ArgMin": _extreme_index(torch.argmin),
    "CumSum": _cumulated,
    "TopK": _top_k,
}
