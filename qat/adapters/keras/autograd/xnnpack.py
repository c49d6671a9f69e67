"""LiteRT's delegate in TensorFlow, exact in every bit; :mod:`qat.arithmetic.xnnpack` has the formulas and their sources.

TFLite's own kernels run the operators that the delegate does not take: pooling, and additions of very different scales.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import xnnpack

from .functions import Encoded, Limits
from .tflite import avg_pool2d as avg_pool2d
from .tflite import divide_by_count as divide_by_count
from .tflite import round_product as round_product


def divide_by_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Return real values in units of a scale, not yet rounded. The kernel multiplies by the reciprocal."""
    return x * (1.0 / scale)


def add(a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
    """Return ``a + b`` on the third grid."""
    ga, gb, gy = grids
    ra, rb = ga.scale / gy.scale, gb.scale / gy.scale
    low, high = xnnpack.ADD_RATIOS
    inside = tf.logical_and(tf.minimum(ra, rb) >= low, tf.maximum(ra, rb) < high)
    return tf.cond(inside, lambda: _add(a, b, ra, rb, limits), lambda: _add_in_numpy(a, b, grids, limits))


def _add(a: Tensor, b: Tensor, ra: Tensor, rb: Tensor, limits: Limits) -> Tensor:
    f64 = tf.float64
    # The exponent of the larger ratio, read off its float32 bits, as XNNPACK does.
    exponent = tf.bitwise.right_shift(tf.bitcast(tf.maximum(ra, rb), tf.int32), 23) - 127
    power = tf.cast(tf.bitcast(tf.bitwise.left_shift(20 - exponent + 127, 23), tf.float32), f64)
    ma, mb = tf.round(tf.cast(ra, f64) * power), tf.round(tf.cast(rb, f64) * power)
    v = tf.floor((tf.cast(a, f64) * ma + tf.cast(b, f64) * mb) / power + 0.5)
    return tf.clip_by_value(tf.cast(v, tf.float32), *limits)


def _add_in_numpy(a: Tensor, b: Tensor, grids: tuple[Encoded, ...], limits: Limits) -> Tensor:
    """Return the sum by the NumPy reference: for scales that the delegate does not take, which are rare."""

    def add(x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        ea, eb, ey = (grid.encoding for grid in grids)
        return xnnpack.add(x, y, ea, eb, ey, float(low), float(high))

    y = tf.numpy_function(add, (a, b, *limits), tf.float32)
    y.set_shape(tf.broadcast_static_shape(a.shape, b.shape))
    return y


def mean(total: Tensor, count: np.float32, grids: tuple[Encoded, Encoded], limits: Limits) -> Tensor:
    """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second.

    The zero points come in after the multiplication.
    """
    gx, gy = grids
    scale = (gx.scale / gy.scale) * (np.float32(1) / count)
    offset = gx.zero_point * count
    v = (total + offset) * scale + (gy.zero_point - offset * scale)
    return tf.clip_by_value(tf.round(v) - gy.zero_point, *limits)
