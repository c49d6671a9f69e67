"""Float operators whose sums a runtime adds in another order than PyTorch: the same functions in the runtime's order.

A bilinear resize ends most networks of segmentation, and integer kernels may follow it. Its float result has PyTorch's bits in no
runtime, but each runtime's kernel is a few products and sums, of which IEEE 754 prescribes every bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qat.arithmetic.float_resizing import Places, of_onnxruntime, of_xnnpack

BILINEAR = torch.ops.aten.upsample_bilinear2d.vec


def resized_by_onnxruntime(
    x: Tensor, size: Sequence[int] | None, aligned: bool, factors: Sequence[float] | None = None
) -> Tensor:
    """Resize images [n, c, h, w] as ONNX Runtime does: four products, added in the order of rows.

    ``UpsampleBilinear`` of onnxruntime/core/providers/cpu/tensor/upsample.cc.
    """
    if is_trained(x):
        return BILINEAR(x, size, aligned, factors)
    sizes = _sizes(x, size, factors)
    given = (None, None) if size or factors is None else factors
    rows, columns = (
        _on(x, of_onnxruntime(n, out, aligned, factor)) for n, out, factor in zip(x.shape[2:], sizes, given, strict=True)
    )
    total: Tensor | None = None
    for row, of_row in ((rows[0], rows[2]), (rows[1], rows[3])):
        line = x.index_select(2, row)
        for column, of_column in ((columns[0], columns[2]), (columns[1], columns[3])):
            product = line.index_select(3, column).mul_(of_column * of_row[:, None])
            total = product if total is None else total.add_(product)
    assert total is not None
    return total


def resized_by_xnnpack(x: Tensor, size: Sequence[int] | None, aligned: bool, factors: Sequence[float] | None = None) -> Tensor:
    """Resize images [n, c, h, w] as LiteRT's delegate does: between columns, then between rows.

    XNNPACK's src/f32-ibilinear/scalar.c.in. Where PyTorch steps by another factor than that of the sizes, the ``.tflite`` has two
    products of matrices instead.
    """
    sizes = _sizes(x, size, factors)
    if is_trained(x) or (not size and [n * f for n, f in zip(x.shape[2:], factors or (), strict=True)] != sizes):
        return BILINEAR(x, size, aligned, factors)
    rows, columns = (_on(x, of_xnnpack(n, out, aligned)) for n, out in zip(x.shape[2:], sizes, strict=True))
    x = _between(x, 3, columns, columns[3])
    return _between(x, 2, rows, rows[3][:, None])


def _between(x: Tensor, axis: int, places: Sequence[Tensor], after: Tensor) -> Tensor:
    first, second = x.index_select(axis, places[0]), x.index_select(axis, places[1])
    return second.sub_(first).mul_(after).add_(first)


def is_trained(x: Tensor) -> bool:
    """Whether a backward pass follows, which PyTorch's own operator does in one kernel; the values differ in their last bits."""
    return x.requires_grad and torch.is_grad_enabled()


def _sizes(x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> list[int]:
    return [int(n) for n in size] if size else [int(n * f) for n, f in zip(x.shape[2:], factors or (), strict=True)]


def _on(x: Tensor, places: Places) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(numbers).to(x.device) for numbers in places)
