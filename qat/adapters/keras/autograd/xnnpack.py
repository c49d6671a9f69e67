"""LiteRT's delegate in TensorFlow, exact in every bit; :mod:`qat.arithmetic.xnnpack` has the formulas and their sources.

TFLite's own kernels, which run the pooling, average the same way.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import xnnpack

from .functions import Encoded, round_clamp


def divide_by_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Return real values in units of a scale, not yet rounded. The kernel multiplies by the reciprocal."""
    return x * (1.0 / scale)


def divide_by_count(total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
    """Return the averages of sums, not yet rounded."""
    return total / count


def add(a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return ``a + b`` on the third grid."""
    ga, gb, gy = grids
    ra, rb = ga.scale / gy.scale, gb.scale / gy.scale
    low, high = xnnpack.ADD_RATIOS
    inside = tf.logical_and(tf.minimum(ra, rb) >= low, tf.maximum(ra, rb) < high)
    return tf.cond(inside, lambda: _add(a, b, ra, rb, lo, hi), lambda: _add_in_numpy(a, b, grids, lo, hi))


def _add(a: Tensor, b: Tensor, ra: Tensor, rb: Tensor, lo: Tensor | float, hi: Tensor) -> Tensor:
    f64 = tf.float64
    # The exponent of the larger ratio, read off its float32 bits, as XNNPACK does.
    exponent = tf.bitwise.right_shift(tf.bitcast(tf.maximum(ra, rb), tf.int32), 23) - 127
    power = tf.cast(tf.bitcast(tf.bitwise.left_shift(20 - exponent + 127, 23), tf.float32), f64)
    ma, mb = tf.round(tf.cast(ra, f64) * power), tf.round(tf.cast(rb, f64) * power)
    v = tf.floor((tf.cast(a, f64) * ma + tf.cast(b, f64) * mb) / power + 0.5)
    return tf.clip_by_value(tf.cast(v, tf.float32), lo, hi)


def _add_in_numpy(a: Tensor, b: Tensor, grids: tuple[Encoded, ...], lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return the sum by the NumPy reference: for scales that the delegate does not take, which are rare."""

    def add(x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        ea, eb, ey = (grid.encoding for grid in grids)
        return xnnpack.add(x, y, ea, eb, ey, float(low), float(high))

    y = tf.numpy_function(add, (a, b, lo, hi), tf.float32)
    y.set_shape(tf.broadcast_static_shape(a.shape, b.shape))
    return y


def round_product(v: Tensor, grid: Encoded, lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return a rescaled product of two tensors on its grid."""
    return round_clamp(v, lo, hi)


def mean(total: Tensor, count: np.float32, grids: tuple[Encoded, Encoded], lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second.

    The zero points come in after the multiplication.
    """
    gx, gy = grids
    scale = (gx.scale / gy.scale) * (np.float32(1) / count)
    offset = gx.zero_point * count
    v = (total + offset) * scale + (gy.zero_point - offset * scale)
    return tf.clip_by_value(tf.round(v) - gy.zero_point, lo, hi)


def avg_pool2d(total: Tensor, count: Tensor, grid: Encoded, lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""
    raw = total + count * grid.zero_point
    # Half a unit more never changes the quotient's floor, and keeps it right where the graph optimizer multiplies by the
    # reciprocal of the constant count instead of dividing.
    half = tf.floor(count / 2) + 0.5
    mean = tf.where(raw > 0, tf.floor((raw + half) / count), -tf.floor((half - raw) / count))
    return tf.clip_by_value(mean - grid.zero_point, lo, hi)
