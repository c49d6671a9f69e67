"""Pooling and resizing of images.

tensorflow/lite/kernels/{pooling,resize_bilinear,resize_nearest_neighbor}.cc, and their arithmetic in
internal/reference/{pooling,resize_bilinear,resize_nearest_neighbor}.h.
"""

from __future__ import annotations

import operator

import numpy as np
import torch
import torch.nn.functional as F

from qat.errors import CaptureError
from qat.graph.padding import same_padding
from qat.sources.module_writer import Value

from .flatbuffer import Operator
from .importer import Importer, Row
from .laid import Laid, channels_first, in_file_order
from .linear import sizes_of

_IMAGE = channels_first(4)
_VALID = 1


def _window(op: Operator, x: Value) -> tuple[tuple[int, int], tuple[int, int], tuple[tuple[int, int], ...]]:
    o = op.options
    kernel, strides = (int(o.filterHeight), int(o.filterWidth)), (int(o.strideH), int(o.strideW))
    if o.padding == _VALID:
        return kernel, strides, ((0, 0), (0, 0))
    both = same_padding(sizes_of(x, op), kernel, strides)
    assert both is not None
    return kernel, strides, both


def _can_be_ceiled(both: tuple[tuple[int, int], ...], strides: tuple[int, int]) -> bool:
    """Whether PyTorch's ``ceil_mode``, with the padding of the start on both sides, makes the windows of TFLite's SAME."""
    return all(
        last in (first, first + 1) and (first == last or stride > 1) for (first, last), stride in zip(both, strides, strict=True)
    )


def max_pool(b: Importer, op: Operator) -> Laid:
    """MAX_POOL_2D: no window returns its padding."""
    x = b.image(op, 0)
    kernel, strides, both = _window(op, x)
    if _can_be_ceiled(both, strides):
        ceil = any(first != last for first, last in both)
        y = b.call(F.max_pool2d, x, kernel, strides, [first for first, _ in both], 1, ceil)
    else:
        padded = b.call(F.pad, x, [n for side in reversed(both) for n in side], "constant", float("-inf"))
        y = b.call(F.max_pool2d, padded, kernel, strides)
    return Laid(b.activated(y, op), _IMAGE)


def average_pool(b: Importer, op: Operator) -> Laid:
    """AVERAGE_POOL_2D: of the elements inside the image. One window over the whole image is a mean.

    PyTorch's form without the padding has an uneven one only with ``ceil_mode``, and no integer kernel: the averages with it are
    multiplied by the share of each window that lies inside.
    """
    x = b.image(op, 0)
    kernel, strides, both = _window(op, x)
    padded = any(n for side in both for n in side)
    if tuple(x.shape[2:]) == kernel and not padded:
        y = b.call(torch.mean, x, [2, 3], True)
    else:
        around = b.call(F.pad, x, [n for side in reversed(both) for n in side]) if padded else x
        y = b.call(F.avg_pool2d, around, kernel, strides)
        if padded:
            rows, columns = (
                _inside(n, k, s, first) for n, k, s, (first, _) in zip(sizes_of(x, op), kernel, strides, both, strict=True)
            )
            factors = (1 / np.outer(rows, columns)).astype(np.float32)[None, None]
            y = b.call(operator.mul, y, b.writer.buffer(f"{op.scope}.inside", factors))
    return Laid(b.activated(y, op), _IMAGE)


def _inside(size: int, window: int, stride: int, before: int) -> np.ndarray:
    """Return the share of each window of SAME that lies inside an axis."""
    starts = np.arange(-(-size // stride)) * stride - before
    return (np.minimum(starts + window, size) - np.maximum(starts, 0)) / window


def resize_bilinear(b: Importer, op: Operator) -> Laid:
    """RESIZE_BILINEAR: between the centres of pixels, or the corners of the image; in the oldest form, from the first pixel."""
    corners, size = bool(op.options.alignCorners), b.integers(op, 1)
    if corners or op.options.halfPixelCenters:
        y = b.call(F.interpolate, b.image(op, 0), size=size, mode="bilinear", align_corners=corners)
        return Laid(y, _IMAGE)
    x = b.plain(op, 0)
    for axis, n in enumerate(size, start=1):
        have = _fixed(op, x, axis)
        at = np.arange(n, dtype=np.float32) * np.float32(have / n)
        low = np.minimum(np.floor(at), have - 1).astype(np.int64)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        near, far = (_chosen(b, op, x, axis, i) for i in (low, np.minimum(low + 1, have - 1)))
        between = b.call(operator.mul, b.call(operator.sub, far, near), b.writer.buffer(f"{op.scope}.share{axis}", share))
        x = b.call(operator.add, near, between)
    return in_file_order(x)


def resize_nearest(b: Importer, op: Operator) -> Laid:
    """RESIZE_NEAREST_NEIGHBOR: the pixel at, or nearest to, the place of each new one."""
    x, o = b.plain(op, 0), op.options
    for axis, n in enumerate(b.integers(op, 1), start=1):
        have = _fixed(op, x, axis)
        scale = np.float32((have - 1) / (n - 1)) if o.alignCorners and n > 1 else np.float32(have / n)
        place = (np.arange(n, dtype=np.float32) + np.float32(0.5 if o.halfPixelCenters else 0)) * scale
        # TFLite rounds halves away from zero.
        nearest = np.floor(place + np.float32(0.5)) if o.alignCorners else np.floor(place)
        chosen = np.clip(nearest, 0, have - 1).astype(np.int64)
        if n % have == 0 and np.array_equal(chosen, np.repeat(np.arange(have), n // have)):
            x = b.call(torch.repeat_interleave, x, n // have, axis) if n > have else x
        else:
            x = _chosen(b, op, x, axis, chosen)
    return in_file_order(x)


def _fixed(op: Operator, x: Value, axis: int) -> int:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise CaptureError(f"{op}: its image has a free size: give the model's input a fixed size")
    return size


def _chosen(b: Importer, op: Operator, x: Value, axis: int, places: np.ndarray) -> Value:
    return b.call(torch.index_select, x, axis, b.constant(places, f"{op.scope}.places"))


ROWS: dict[str, Row] = {
    "MAX_POOL_2D": max_pool,
    "AVERAGE_POOL_2D": average_pool,
    "RESIZE_BILINEAR": resize_bilinear,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}
