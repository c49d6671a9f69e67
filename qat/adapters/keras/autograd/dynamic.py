"""The arithmetic of dynamic kernels in TensorFlow: the activation's grid is chosen as the kernel runs.

:mod:`qat.arithmetic.dynamic` is the reference; it has the names of the kernels and their sources. Gradients are straight through.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.dynamic import one_by_one

from .functions import straight_through


def on_grid(x: Tensor, axes: tuple[int, ...], kernels: str) -> tuple[Tensor, Tensor]:
    """Return a tensor as integers less their zero point, and its scale; ``axes`` share one range."""
    seen = tf.stop_gradient(x)
    low = tf.minimum(tf.reduce_min(seen, axes, keepdims=True), 0.0)
    high = tf.maximum(tf.reduce_max(seen, axes, keepdims=True), 0.0)
    span = tf.where(low == high, 1.0, high - low)
    # A divisor that no optimizer sees through: TensorFlow turns division by a constant into multiplication by its reciprocal.
    levels = tf.where(low == high, 1.0, 255.0)
    v, q, scale = _GRIDS[kernels](x, (low, high), span, levels)
    return straight_through(v, q), scale


def _mlas(x: Tensor, ends: tuple[Tensor, Tensor], span: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = span / levels
    v = x / scale
    zero_point = tf.round(tf.clip_by_value(-ends[0] / scale, 0.0, 255.0))
    return v, tf.clip_by_value(tf.round(tf.stop_gradient(v)) + zero_point, 0.0, 255.0) - zero_point, scale


def _xnnpack(x: Tensor, ends: tuple[Tensor, Tensor], span: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = ends
    inverse = levels / span
    v = x * inverse
    from_low, from_high = -128.0 - low * inverse, 127.0 - high * inverse
    nearer = (-128.0 + low * inverse) + (127.0 + high * inverse) > 0
    zero_point = tf.round(tf.clip_by_value(tf.where(nearer, from_low, from_high), -128.0, 127.0))
    q = tf.clip_by_value(tf.round(tf.stop_gradient(v)) + zero_point, -128.0, 127.0) - zero_point
    return v, q, 1.0 / inverse


def _tflite(x: Tensor, ends: tuple[Tensor, Tensor], span: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = span / levels
    exact = tf.cast(span, tf.float64) / tf.cast(levels, tf.float64)
    low, high = (tf.cast(end, tf.float64) / exact for end in ends)
    zero_point = tf.where(128.0 + tf.abs(low) < 127.0 + tf.abs(high), -128.0 - low, 127.0 - high)
    zero_point = tf.cast(_half_away(tf.clip_by_value(zero_point, -128.0, 127.0)), tf.float32)
    rounded = _half_away(tf.stop_gradient(x) * (1.0 / scale))
    return x / scale, tf.clip_by_value(rounded + zero_point, -128.0, 127.0) - zero_point, scale


def _half_away(v: Tensor) -> Tensor:
    return tf.sign(v) * tf.floor(tf.abs(v) + 0.5)


_GRIDS: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor]]] = {
    "mlas": _mlas,
    "xnnpack": _xnnpack,
    **dict.fromkeys(("builtin", "builtin_depthwise", "builtin_groups"), _tflite),
}


def dequantize_accumulator(acc: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, kernels: str) -> Tensor:
    """Return an accumulator's real values; scales and bias broadcast against it. The order of products is the kernel's."""
    if kernels == "xnnpack":
        v = tf.cast(acc * x_scale, tf.float64) * tf.cast(scale, tf.float64)
        return tf.cast(v if bias is None else v + tf.cast(bias, tf.float64), tf.float32)
    v = _PRODUCTS[kernels](acc, x_scale, scale)
    return v if bias is None else v + bias


def _depthwise_product(acc: Tensor, x_scale: Tensor, scale: Tensor) -> Tensor:
    single = one_by_one(scale.shape[0])
    return (acc * tf.where(single, x_scale, scale)) * tf.where(single, scale, x_scale)


_PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mlas": lambda acc, x_scale, scale: acc * (x_scale * scale),
    "builtin": lambda acc, x_scale, scale: acc * (x_scale * scale),
    "builtin_depthwise": _depthwise_product,
    "builtin_groups": lambda acc, x_scale, scale: (acc * scale) * x_scale,
}
