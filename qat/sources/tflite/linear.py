"""Convolutions and products.

tensorflow/lite/kernels/{conv,depthwise_conv,transpose_conv,fully_connected,batch_matmul}.cc, and for the custom operator
mediapipe/util/tflite/operations/transpose_conv_bias.cc.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from qat.errors import CaptureError
from qat.graph.padding import same_padding
from qat.sources.module_writer import Value

from .flatbuffer import Operator
from .importer import Importer, Row
from .laid import Laid, channels_first, in_file_order

_SAME = 0
_IMAGE = channels_first(4)
_VOLUME = channels_first(5)


def sizes_of(value: Value, op: Operator) -> list[int]:
    """Return the sizes after batch and channels of an image, which SAME padding depends on."""
    sizes = [n for n in value.shape[2:] if isinstance(n, int)]
    if len(sizes) != len(value.shape) - 2:
        raise CaptureError(f"{op}: its image has a free size, on which its padding depends: give the model's input a fixed size")
    return sizes


def _same(op: Operator, x: Value, weight: Value, strides: Sequence[int], dilations: Sequence[int]) -> tuple[tuple[int, int], ...]:
    window = [(int(k) - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    both = same_padding(sizes_of(x, op), window, strides)
    assert both is not None
    return both


def _padded(b: Importer, x: Value, both: Sequence[tuple[int, int]]) -> Value:
    return b.call(F.pad, x, [n for side in reversed(both) for n in side])


def _convolve(
    b: Importer, op: Operator, x: Value, weight: Value, strides: tuple[int, int], dilations: tuple[int, int], groups: int
) -> Value:
    """Write a convolution of an image by a weight ``[outputs, inputs of a group, height, width]``, with its bias."""
    bias = b.weight(op, 2, np.ravel) if b.has(op, 2) else None
    padding: tuple[int, ...] = (0, 0)
    if op.options.padding == _SAME:
        both = _same(op, x, weight, strides, dilations)
        if all(first == last for first, last in both):
            padding = tuple(first for first, _ in both)
        else:
            x = _padded(b, x, both)
    y = b.call(F.conv2d, x, weight, bias, strides, padding, dilations, groups)
    return b.activated(y, op)


def _geometry(op: Operator) -> tuple[tuple[int, int], tuple[int, int]]:
    o = op.options
    return (o.strideH, o.strideW), (o.dilationHFactor, o.dilationWFactor)


def conv2d(b: Importer, op: Operator) -> Laid:
    """CONV_2D: the weight is ``[outputs, height, width, inputs of a group]``."""
    x = b.image(op, 0)
    weight = b.weight(op, 1, lambda w: w.transpose(0, 3, 1, 2))
    groups = int(x.shape[1]) // int(weight.shape[1])
    return Laid(_convolve(b, op, x, weight, *_geometry(op), groups), _IMAGE)


def depthwise_conv2d(b: Importer, op: Operator) -> Laid:
    """DEPTHWISE_CONV_2D: the weight is ``[1, height, width, inputs * multiplier]``."""
    x = b.image(op, 0)
    weight = b.weight(op, 1, lambda w: w.transpose(3, 0, 1, 2))
    return Laid(_convolve(b, op, x, weight, *_geometry(op), int(x.shape[1])), _IMAGE)


def conv3d(b: Importer, op: Operator) -> Laid:
    """CONV_3D: the weight is ``[depth, height, width, inputs, outputs]``."""
    x, o = b.image(op, 0), op.options
    weight = b.weight(op, 1, lambda w: w.transpose(4, 3, 0, 1, 2))
    strides, dilations = (o.strideD, o.strideH, o.strideW), (o.dilationDFactor, o.dilationHFactor, o.dilationWFactor)
    if o.padding == _SAME:
        x = _padded(b, x, _same(op, x, weight, strides, dilations))
    bias = b.weight(op, 2, np.ravel) if b.has(op, 2) else None
    groups = int(x.shape[1]) // int(weight.shape[1])
    return Laid(b.activated(b.call(F.conv3d, x, weight, bias, strides, 0, dilations, groups), op), _VOLUME)


def _transposed(
    b: Importer,
    op: Operator,
    x: Value,
    weight: Value,
    bias: Value | None,
    strides: Sequence[int],
    size: Sequence[int],
    same: bool,
) -> Laid:
    """Write a transposed convolution that returns images of a size.

    Its padding is that of the convolution from the output to the input, cut off the full result.
    """
    window = [int(n) for n in weight.shape[2:]]
    both = same_padding(size, window, strides) if same else ((0, 0), (0, 0))
    assert both is not None
    cut = [first for first, _ in both]
    full = [(n - 1) * s + k for n, s, k in zip(sizes_of(x, op), strides, window, strict=True)]
    missing = [n + c - f + c for n, c, f in zip(size, cut, full, strict=True)]
    if all(0 <= m < s for m, s in zip(missing, strides, strict=True)):
        return Laid(b.call(F.conv_transpose2d, x, weight, bias, strides, cut, missing), _IMAGE)
    # More is cut off the end than off the start, which PyTorch does not know.
    laid = Laid(b.call(F.conv_transpose2d, x, weight, bias, strides), _IMAGE)
    y = b.ordered(laid)
    for axis, (first, n) in enumerate(zip(cut, size, strict=True), start=1):
        y = b.call(torch.ops.aten.slice.Tensor, y, axis, first, first + n)
    return in_file_order(y)


def transpose_conv(b: Importer, op: Operator) -> Laid:
    """TRANSPOSE_CONV: of the output's shape, a weight ``[outputs, height, width, inputs]``, the input and a bias."""
    size, o = b.numbers(op, 0)[1:3], op.options
    weight = b.weight(op, 1, lambda w: w.transpose(3, 0, 1, 2))
    bias = b.weight(op, 3, np.ravel) if b.has(op, 3) else None
    sizes = [n for n in size if isinstance(n, int)]
    laid = _transposed(b, op, b.image(op, 2), weight, bias, (o.strideH, o.strideW), sizes, o.padding == _SAME)
    return Laid(b.activated(laid.value, op), laid.order)


def transpose_conv_bias(b: Importer, op: Operator) -> Laid:
    """MediaPipe's Convolution2DTransposeBias: the options are padding (1 is SAME), the stride's width and its height."""
    same, stride_w, stride_h = struct.unpack("<3i", op.custom[:12])
    x, strides = b.image(op, 0), (stride_h, stride_w)
    weight = b.weight(op, 1, lambda w: w.transpose(3, 0, 1, 2))
    size = [n * s for n, s in zip(sizes_of(x, op), strides, strict=True)]
    if same != 1:
        size = [n + max(int(k) - s, 0) for n, k, s in zip(size, weight.shape[2:], strides, strict=True)]
    return _transposed(b, op, x, weight, b.weight(op, 2, np.ravel), strides, size, same == 1)


def fully_connected(b: Importer, op: Operator) -> Laid:
    """FULLY_CONNECTED: the weight is ``[outputs, inputs]``; without ``keep_num_dims`` the input becomes rows of ``inputs``."""
    inputs = int((b.known(op, 1).shape if b.is_known(op, 1) else b.plain(op, 1).shape)[1])
    x = rows_of(b, b.laid(op, 0), inputs) if not op.options.keepNumDims else b.plain(op, 0)
    bias = b.weight(op, 2, np.ravel) if b.has(op, 2) else None
    if b.is_known(op, 1):
        y = b.call(F.linear, x, b.weight(op, 1), bias)
    else:
        y = b.call(torch.matmul, x, b.call(torch.transpose, b.plain(op, 1), 0, 1))
        y = y if bias is None else b.call(torch.add, y, bias)
    return in_file_order(b.activated(y, op))


def rows_of(b: Importer, laid: Laid, length: int) -> Value:
    """Return a tensor as rows of a length."""
    if laid.rank == 2 and laid.size(1) == length:
        return b.ordered(laid)
    sizes = [laid.size(axis) for axis in range(1, laid.rank)]
    if all(isinstance(n, int) for n in sizes) and math.prod(sizes) == length:  # type: ignore[arg-type]
        wide = [n for n in laid.value.shape[1:] if n != 1]
        # Of one pixel or one channel the elements lie in the same order either way.
        return b.call(torch.flatten, laid.value if len(wide) <= 1 else b.ordered(laid), 1)
    return b.call(torch.reshape, b.ordered(laid), (-1, length))


def batch_matmul(b: Importer, op: Operator) -> Laid:
    """BATCH_MATMUL: of the last two axes, either of them transposed first."""
    x, y = (_turned(b, op, i, adjoint) for i, adjoint in enumerate((op.options.adjX, op.options.adjY)))
    product = b.call(torch.matmul, x, y)
    return in_file_order(product)


def _turned(b: Importer, op: Operator, index: int, adjoint: bool) -> Value:
    if b.is_known(op, index):
        return b.weight(op, index, lambda w: np.swapaxes(w, -1, -2) if adjoint else w)
    x = b.plain(op, index)
    return b.call(torch.transpose, x, -1, -2) if adjoint else x


ROWS: dict[str, Row] = {
    "CONV_2D": conv2d,
    "DEPTHWISE_CONV_2D": depthwise_conv2d,
    "CONV_3D": conv3d,
    "TRANSPOSE_CONV": transpose_conv,
    "Convolution2DTransposeBias": transpose_conv_bias,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
}
