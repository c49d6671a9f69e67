"""Core ATen operators that compute: normalization, arithmetic, reductions, in TensorFlow."""

from __future__ import annotations

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


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a function of two operands, one of which may be a number. ``alpha`` multiplies the second one."""

    def apply(a: Number, b: Number, alpha: float = 1) -> Tensor:
        dtype = next(v.dtype for v in (a, b) if hasattr(v, "dtype"))
        a, b = (tf.cast(v, dtype) for v in (a, b))
        return function(a, b if alpha == 1 else b * tf.cast(alpha, dtype))

    return apply


def clamp(x: Tensor, low: Number | None = None, high: Number | None = None) -> Tensor:
    """Clip to limits, each of which may be absent."""
    x = x if low is None else tf.maximum(x, tf.cast(low, x.dtype))
    return x if high is None else tf.minimum(x, tf.cast(high, x.dtype))


def reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a reduction over axes; over all of them where none are given."""

    def apply(x: Tensor, dim: Axes = None, keepdim: bool = False, **_: object) -> Tensor:
        return function(x, dim if dim != [] else None, keepdims=keepdim)

    return apply


def variance(x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = 1, keepdim: bool = False) -> Tensor:
    """Return the variance over axes, divided by the number of elements minus ``correction``."""
    count = int(np.prod([x.shape[d] for d in (range(len(x.shape)) if dim is None else dim)]))
    return tf.math.reduce_variance(x, dim, keepdims=keepdim) * (count / (count - (1 if correction is None else correction)))


def vector_norm(x: Tensor, order: float = 2, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """Return the sum of magnitudes (order 1) or the Euclidean norm (order 2) over axes."""
    if order not in (1, 2):
        raise NotImplementedError(f"a norm of order {order}")
    total = tf.reduce_sum(tf.abs(x) if order == 1 else tf.square(x), dim, keepdims=keepdim)
    return total if order == 1 else tf.sqrt(total)


def extreme(value: Callable[..., Tensor], index: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """Return a function that gives the extreme value along an axis and its index."""
    return lambda x, dim, keepdim=False: [value(x, dim, keepdims=keepdim), index(x, dim)]
