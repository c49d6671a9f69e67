"""ONNX Runtime's kernels in TensorFlow, exact in every bit; :mod:`qat.arithmetic.mlas` has the formulas and their sources."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from .functions import Encoded, Limits, round_clamp


def divide_by_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Return real values in units of a scale, not yet rounded."""
    return x / scale


def divide_by_count(total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
    """Return the averages of sums, not yet rounded. The kernel is a convolution with ones, which rescales."""
    scale = tf.convert_to_tensor(grid.scale)
    return total * ((scale * (1.0 / count)) / scale)


def add(a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
    """Return ``a + b`` on the third grid."""
    ga, gb, gy = grids
    ra, rb = ga.scale / gy.scale, gb.scale / gy.scale
    fixed = gy.zero_point - _fma(ga.zero_point, ra, rb * gb.zero_point)
    v = _fma(a + ga.zero_point, ra, _fma(b + gb.zero_point, rb, fixed))
    return tf.clip_by_value(tf.round(v) - gy.zero_point, *limits)


def round_product(v: Tensor, grid: Encoded, limits: Limits) -> Tensor:
    """Return a rescaled product of two tensors on its grid. The kernel rounds after it has added the zero point."""
    return tf.clip_by_value(tf.round(v + grid.zero_point) - grid.zero_point, *limits)


def mean(total: Tensor, count: np.float32, grids: tuple[Encoded, Encoded], limits: Limits) -> Tensor:
    """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second."""
    gx, gy = grids
    return round_clamp(total * (gx.scale / (gy.scale * count)), limits)


def avg_pool2d(total: Tensor, count: Tensor, grid: Encoded, limits: Limits, padded: bool) -> Tensor:
    """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""
    if padded:
        # In float64: the graph optimizer multiplies by the reciprocal of the constant count instead of dividing, which would
        # move halves in float32.
        total, count = (tf.cast(x, tf.float64) for x in (total + count * grid.zero_point, count))
        return tf.clip_by_value(tf.round(tf.cast(total / count, tf.float32)) - grid.zero_point, *limits)
    return round_clamp(divide_by_count(total, count, grid), limits)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return float32 ``a * b + c`` with one rounding; ``a`` is an 8-bit integer."""
    a, b, c = (tf.cast(x, tf.float64) for x in (a, b, c))
    return tf.cast(a * b + c, tf.float32)
