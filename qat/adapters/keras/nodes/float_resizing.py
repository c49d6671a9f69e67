"""Float operators whose sums a runtime adds in another order than TensorFlow: the same functions in the runtime's order.

A bilinear resize ends most networks of segmentation, and integer kernels may follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.float_resizing import of_onnxruntime, of_xnnpack


def resized_by_onnxruntime(layer: Any, x: Tensor) -> Tensor | None:
    """Resize images [n, h, w, c] as ONNX Runtime does: four products, added in the order of rows.

    None of another interpolation, and of sizes that are not fixed. ``UpsampleBilinear`` of
    onnxruntime/core/providers/cpu/tensor/upsample.cc.
    """
    sizes = _sizes(layer, x)
    if sizes is None:
        return None
    rows, columns = (of_onnxruntime(n, out, aligned=False) for n, out in zip(x.shape[1:3], sizes, strict=True))
    total: Tensor | None = None
    for row, of_row in ((rows.first, rows.before), (rows.second, rows.after)):
        line = tf.gather(x, row, axis=1)
        for column, of_column in ((columns.first, columns.before), (columns.second, columns.after)):
            product = tf.gather(line, column, axis=2) * (of_column * of_row[:, None])[:, :, None]
            total = product if total is None else total + product
    return total


def resized_by_xnnpack(layer: Any, x: Tensor) -> Tensor | None:
    """Resize images [n, h, w, c] as LiteRT's delegate does: between columns, then between rows.

    None of another interpolation, and of sizes that are not fixed. XNNPACK's src/f32-ibilinear/scalar.c.in.
    """
    sizes = _sizes(layer, x)
    if sizes is None:
        return None
    for axis in (2, 1):
        places = of_xnnpack(x.shape[axis], sizes[axis - 1], aligned=False)
        first, second = (tf.gather(x, at, axis=axis) for at in (places.first, places.second))
        x = first + (second - first) * places.after.reshape([-1] + [1] * (3 - axis))
    return x


def _sizes(layer: Any, x: Tensor) -> Sequence[int] | None:
    """Return the height and width that a bilinear layer makes of images; None of any other."""
    special = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")
    if layer.interpolation != "bilinear" or any(getattr(layer, name, False) for name in special):
        return None
    if layer.data_format != "channels_last" or len(x.shape) != 4 or None in x.shape[1:] or x.dtype != tf.float32:
        return None
    if isinstance(layer, keras.layers.UpSampling2D):
        return [n * factor for n, factor in zip(x.shape[1:3], layer.size, strict=True)]
    sizes: Sequence[int] = (layer.height, layer.width) if isinstance(layer, keras.layers.Resizing) else layer.size
    return None if 1 in sizes else sizes  # the place of a single element is another
