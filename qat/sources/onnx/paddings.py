"""The padding of windows: the numbers of each side, whether the file gives them or a rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from .operator import DAMAGED, Length, Operand, Operator, Size


def sides(
    n: Operator, sizes: Sequence[Length], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[Length], list[Length]]:
    """Return the padding before and after each axis.

    Source: https://onnx.ai/onnx/operators/onnx__Conv.html, ``auto_pad``: SAME pads so that the output has
    ``ceil(size / stride)`` elements, with the odd one at the end (UPPER) or at the beginning (LOWER).
    """
    count, rule = len(kernel), n.attr("auto_pad", "NOTSET")
    if rule == "NOTSET":
        pads = list(n.attr("pads", [0] * 2 * count))
        if len(pads) != 2 * count:
            n.refuse(f"has {len(pads)} pads for a kernel of {count} axes", DAMAGED)
        return pads[:count], pads[count:]
    if rule == "VALID":
        return [0] * count, [0] * count
    totals = [_same(*one) for one in zip(sizes, kernel, strides, dilations, strict=True)]
    less = [t // 2 for t in totals]
    more = [t - half for t, half in zip(totals, less, strict=True)]
    return (less, more) if rule == "SAME_UPPER" else (more, less)


def _same(size: Length, kernel: int, stride: int, dilation: int) -> Length:
    span = dilation * (kernel - 1) + 1
    if stride == 1:
        return span - 1
    total = ((size + stride - 1) // stride - 1) * stride + span - size
    return total.larger(0) if isinstance(total, Size) else max(total, 0)


def padded(n: Operator, x: Operand, before: Sequence[Length], after: Sequence[Length], value: float = 0.0) -> Operand:
    """Return a tensor with a number around its last axes."""
    amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return n.call(F.pad, x, amounts, "constant", value)
