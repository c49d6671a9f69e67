"""TFLite's own kernels in TensorFlow, exact in every bit; :mod:`qat.arithmetic.tflite` has the formulas and their sources."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from .functions import Encoded, Limits, round_clamp


def divide_by_count(total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
    """Return the averages of sums, not yet rounded."""
    return total / count


def round_product(v: Tensor, grid: Encoded, limits: Limits) -> Tensor:
    """Return a rescaled product of two tensors on its grid."""
    return round_clamp(v, limits)


def avg_pool2d(total: Tensor, count: Tensor, grid: Encoded, limits: Limits, padded: bool) -> Tensor:
    """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""
    raw = total + count * grid.zero_point
    # Half a unit more never changes the quotient's floor, and keeps it right where the graph optimizer multiplies by the
    # reciprocal of the constant count instead of dividing.
    half = tf.floor(count / 2) + 0.5
    mean = tf.where(raw > 0, tf.floor((raw + half) / count), -tf.floor((half - raw) / count))
    return tf.clip_by_value(mean - grid.zero_point, *limits)


def requantize(acc: Tensor, multiplier: Tensor, limits: Limits, halves_up: bool) -> Tensor:
    """Return an accumulator times a float64 multiplier on the output's grid, as the optimized kernels compute it."""
    return tf.clip_by_value(fixed_point(acc, multiplier, halves_up), *limits)


def fixed_point(acc: Tensor, multiplier: Tensor, halves_up: bool) -> Tensor:
    """Return ``acc * multiplier``, halves up or away from zero; see :func:`qat.arithmetic.tflite.fixed_point`."""
    left_shift, right_shift = tf.bitwise.left_shift, tf.bitwise.right_shift
    mantissa, shift = _quantize_multiplier(multiplier)
    left, right = tf.maximum(shift, 0), tf.maximum(-shift, 0)
    half = right_shift(left_shift(tf.ones_like(right), right), np.int64(1))
    acc = tf.cast(acc, tf.int64)
    size, below = (acc, 0) if halves_up else (tf.abs(acc), tf.cast(acc < 0, tf.int64))  # a negative half is nudged by one less
    high = right_shift(left_shift(size, left) * mantissa + (1 << 30) - below, np.int64(31))
    found = right_shift(high + half, right)
    return tf.cast(found if halves_up else tf.sign(acc) * found, tf.float32)


def _quantize_multiplier(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 mantissa of 31 bits and shift of a float64; see :func:`qat.arithmetic.tflite.quantize_multiplier`."""
    bits = tf.bitcast(value, tf.int64)
    shift = tf.bitwise.right_shift(bits, np.int64(52)) - 1022
    # The same mantissa with the exponent of [0.5, 1).
    fraction = tf.bitcast(tf.bitwise.bitwise_and(bits, (1 << 52) - 1) + (1022 << 52), tf.float64)
    mantissa = tf.cast(tf.floor(fraction * 2.0**31 + 0.5), tf.int64)
    full = tf.equal(mantissa, 1 << 31)
    return tf.where(full, mantissa // 2, mantissa), shift + tf.cast(full, tf.int64)
