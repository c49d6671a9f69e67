"""TFLite's optimized kernels in TensorFlow, exact in every bit; :mod:`qat.arithmetic.tflite` has the formulas and sources."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor


def requantize(acc: Tensor, multiplier: Tensor, lo: Tensor | float, hi: Tensor) -> Tensor:
    """Return an accumulator times a float64 multiplier on the output's grid."""
    return tf.clip_by_value(fixed_point(acc, multiplier), lo, hi)


def fixed_point(acc: Tensor, multiplier: Tensor) -> Tensor:
    """Return ``acc * multiplier``, halves up; see :func:`qat.arithmetic.tflite.fixed_point`."""
    left_shift, right_shift = tf.bitwise.left_shift, tf.bitwise.right_shift
    mantissa, shift = _quantize_multiplier(multiplier)
    left, right = tf.maximum(shift, 0), tf.maximum(-shift, 0)
    high = right_shift(left_shift(tf.cast(acc, tf.int64), left) * mantissa + (1 << 30), np.int64(31))
    half = right_shift(left_shift(tf.ones_like(right), right), np.int64(1))
    return tf.cast(right_shift(high + half, right), tf.float32)


def _quantize_multiplier(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 mantissa of 31 bits and shift of a float64; see :func:`qat.arithmetic.tflite.quantize_multiplier`."""
    bits = tf.bitcast(value, tf.int64)
    shift = tf.bitwise.right_shift(bits, np.int64(52)) - 1022
    # The same mantissa with the exponent of [0.5, 1).
    fraction = tf.bitcast(tf.bitwise.bitwise_and(bits, (1 << 52) - 1) + (1022 << 52), tf.float64)
    mantissa = tf.cast(tf.floor(fraction * 2.0**31 + 0.5), tf.int64)
    full = tf.equal(mantissa, 1 << 31)
    return tf.where(full, mantissa // 2, mantissa), shift + tf.cast(full, tf.int64)
