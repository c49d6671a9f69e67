"""Core ATen operators that compute: normalization, arithmetic, reductions, in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from .aten_shapes import Tensor

Number = float | Tensor
Axes = int | Sequence[int] | None


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, epsilon: float) -> list[Tensor]:
    """Normalize over the last axes."""
    axes = list(range(-len(shape), 0))
    mean = tf.reduce_mean(x, axes, keepdims=True)
    y = (x - mean) * tf.math.rsqrt(tf.reduce_mean(tf.square(x - mean), axes, keepdims=True) + epsilon)
    y = y if weight is None else y * weight
    return [y if bias is None else y + bias]


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, epsilon: float
) -> list[Tensor]:
    """Normalize by the mean and the variance of each channel."""
    y = (x - _per_channel(mean, x)) * _per_channel(tf.math.rsqrt(variance + epsilon), x)
    y = y if weight is None else y * _per_channel(weight, x)
    return [y if bias is None else y + _per_channel(bias, x)]


def _per_channel(vector: Tensor, x: Tensor) -> Tensor:
    """Return one number for each channel, in a shape that broadcasts against ``x``."""
    return tf.reshape(vector, [1, -1, *[1] * (len(x.shape) - 2)])


def instance_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, epsilon: float
) -> list[Tensor]:
    """Normalize by the statistics of all axes but the channels. PyTorch merges samples and channels before it calls this."""
    axes = [0, *range(2, len(x.shape))]
    mean, variance = tf.nn.moments(x, axes)
    return batch_norm(x, weight, bias, mean, variance, momentum, epsilon)


def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: object, channels: int, pixels: int, groups: int, epsilon: float
) -> list[Tensor]:
    """Normalize each sample over groups of channels."""
    flat = tf.reshape(x, [-1, groups, channels // groups * pixels])
    (y,) = layer_norm(flat, [channels // groups * pixels], None, None, epsilon)
    y = tf.reshape(y, [-1, *x.shape[1:]])
    y = y if weight is None else y * _per_channel(weight, x)
    return [y if bias is None else y + _per_channel(bias, x)]


def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to another type; fractions are cut off on the way to an integer."""
    return tf.cast(trunc(x) if dtype == "uint8" and x.dtype.is_floating else x, dtype)


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a function of two operands, one of which may be a number. ``alpha`` multiplies the second one."""

    def apply(a: Number, b: Number, alpha: float = 1) -> Tensor:
        a, b = alike(a, b)
        return function(a, b if alpha == 1 else b * tf.cast(alpha, b.dtype))

    return apply


def alike(*operands: Number) -> tuple[Tensor, ...]:
    """Return operands in one type: that of the tensor; of several tensors the one of numbers with fractions."""
    types = [v.dtype for v in operands if hasattr(v, "dtype")]
    numbers = (v for v in operands if not hasattr(v, "dtype"))
    floating = next((t for t in types if t.is_floating), tf.float32 if any(isinstance(n, float) for n in numbers) else None)
    dtype = floating or next((t for t in types if t != tf.bool), types[0])
    return tuple(tf.cast(v, dtype) for v in operands)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Multiply; of truth values: whether both are true."""
    return tf.logical_and(a, b) if a.dtype == tf.bool else tf.multiply(a, b)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Add; of truth values: whether one is true."""
    return tf.logical_or(a, b) if a.dtype == tf.bool else tf.add(a, b)


def clamp(x: Tensor, low: Number | None = None, high: Number | None = None) -> Tensor:
    """Clip to limits, each of which may be absent."""
    x = x if low is None else tf.maximum(x, tf.cast(low, x.dtype))
    return x if high is None else tf.minimum(x, tf.cast(high, x.dtype))


def reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a reduction over axes; over all of them where none are given."""

    def apply(x: Tensor, dim: Axes = None, keepdim: bool = False, dtype: str | None = None, **_: object) -> Tensor:
        x = countable(x) if dtype is None else tf.cast(x, dtype)
        return function(x, dim if dim != [] else None, keepdims=keepdim)

    return apply


def countable(x: Tensor) -> Tensor:
    """Return truth values as numbers, anything else as it is."""
    return tf.cast(x, tf.int64) if x.dtype == tf.bool else x


def variance(x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = 1, keepdim: bool = False) -> Tensor:
    """Return the variance over axes, divided by the number of elements minus ``correction``."""
    count = int(np.prod([x.shape[d] for d in (range(len(x.shape)) if dim is None else dim)]))
    return tf.math.reduce_variance(x, dim, keepdims=keepdim) * (count / (count - (1 if correction is None else correction)))


def vector_norm(x: Tensor, order: float = 2, dim: Axes = None, keepdim: bool = False, **_: object) -> Tensor:
    """Return a norm over axes: the root of the sum of powers of magnitudes, their maximum or minimum, or how many there are."""
    x, dim = tf.abs(x), None if dim == [] else dim
    if math.isinf(order):
        return (tf.reduce_max if order > 0 else tf.reduce_min)(x, dim, keepdims=keepdim)
    if order == 0:
        return tf.reduce_sum(tf.cast(x > 0, x.dtype), dim, keepdims=keepdim)
    power = x if order == 1 else tf.square(x) if order == 2 else tf.pow(x, order)
    total = tf.reduce_sum(power, dim, keepdims=keepdim)
    return total if order == 1 else tf.sqrt(total) if order == 2 else tf.pow(total, 1 / order)


def extreme_index(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that gives the index of the extreme value along an axis, or among all elements."""

    def apply(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        x = tf.cast(x, tf.int32) if x.dtype == tf.int64 else x
        if dim is None:
            return function(tf.reshape(x, [-1]), 0, output_type=tf.int64)
        y = function(x, dim, output_type=tf.int64)
        return tf.expand_dims(y, dim % len(x.shape)) if keepdim else y

    return apply


def extreme(value: Callable[..., Tensor], index: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """Return a function that gives the extreme value along an axis and its index."""
    where = extreme_index(index)
    return lambda x, dim, keepdim=False: [value(x, dim, keepdims=keepdim), where(x, dim, keepdim)]


def magnitude(x: Tensor) -> Tensor:
    """Return magnitudes, of 64-bit integers too."""
    return tf.maximum(x, -x) if x.dtype.is_integer else tf.abs(x)


def sign(x: Tensor) -> Tensor:
    """Return signs, of 64-bit integers too."""
    return clamp(x, -1, 1) if x.dtype.is_integer else tf.sign(x)


def trunc(x: Tensor) -> Tensor:
    """Round towards zero."""
    return tf.where(x < 0, tf.math.ceil(x), tf.floor(x))


def divide(a: Tensor, b: Number, rounding_mode: str | None = None) -> Tensor:
    """Divide; the quotient is rounded down (``floor``), towards zero (``trunc``), or not at all."""
    dtype = a.dtype
    b = tf.cast(b, dtype)
    if rounding_mode is None:
        return tf.divide(a, b)
    if dtype.is_integer:
        quotient = (tf.math.floordiv if rounding_mode == "floor" else tf.truncatediv)(tf.cast(a, tf.int32), tf.cast(b, tf.int32))
        return tf.cast(quotient, dtype)
    # The quotient itself may be rounded up to the next integer; that of what the rest leaves is an integer but for its rounding.
    return tf.round((a - tf.math.floormod(a, b)) / b) if rounding_mode == "floor" else trunc(a / b)


def floor_rest(a: Tensor, b: Tensor) -> Tensor:
    """Return what a division leaves, with the sign of the divisor."""
    if a.dtype.is_integer:
        return tf.cast(tf.math.floormod(tf.cast(a, tf.int32), tf.cast(b, tf.int32)), a.dtype)
    return tf.math.floormod(a, b)


def trunc_rest(a: Tensor, b: Tensor) -> Tensor:
    """Return what a division leaves, with the sign of the dividend."""
    rest = floor_rest(magnitude(a), magnitude(b))
    return tf.where(a < 0, -rest, rest)


#: x P(x^2) / Q(x^2), from https://gitlab.com/libeigen/eigen/-/blob/3.4/Eigen/src/Core/MathFunctionsImpl.h and TensorFlow's XLA.
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
          -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02)


def erf(x: Tensor) -> Tensor:
    """Return the error function, which TFLite lacks, to the accuracy of float32."""
    x = tf.clip_by_value(x, -4.0, 4.0)
    square = tf.square(x)

    def polynomial(coefficients: Sequence[float]) -> Tensor:
        y = tf.fill(tf.shape(x), coefficients[0])
        for coefficient in coefficients[1:]:
            y = y * square + coefficient
        return y

    return x * polynomial(_ERF_P) / polynomial(_ERF_Q)


def bitwise(of_bools: Callable[..., Tensor], of_integers: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
    """Return a function of truth values, or of the bits of integers where TFLite has it."""

    def apply(a: Tensor, *others: Number) -> Tensor:
        if a.dtype == tf.bool:
            return of_bools(a, *(tf.cast(b, tf.bool) for b in others))
        if of_integers is None:
            raise NotImplementedError("bitwise 'and' and 'or' of integers")
        return tf.cast(of_integers(tf.cast(a, tf.int32), *(tf.cast(b, tf.int32) for b in others)), a.dtype)

    return apply


def logical(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of truth values: what is not 0 is true."""
    return lambda *values: function(*(tf.cast(v, tf.bool) for v in values))


def distances(a: Tensor, b: Tensor, order: float = 2, _mode: int | None = None) -> Tensor:
    """Return the distance of each row of one matrix from each row of another."""
    return vector_norm(a[..., :, None, :] - b[..., None, :, :], order, [-1])
