"""Learned scales: the scale of a weight and the range of an activation as variables, trained with everything else.

The gradients, their factor and their sources are those of :mod:`qat.adapters.torch.autograd.learned_scales`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from .functions import Limits


@tf.custom_gradient
def round_through(v: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Round with a straight-through gradient."""
    return tf.math.rint(v), lambda grad: grad


def _within(grad: Tensor, v: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    return tf.where(tf.logical_and(v > lo, v < hi), grad, 0.0)


def quantize_weight(weight: Tensor, step: Tensor, scale: Tensor, shape: tuple[int, ...], qmax: Tensor) -> Tensor:
    """Return ``clamp(round(w / s), -qmax, qmax)``; ``shape`` lays the channels' scales along the weight's axes.

    ``step`` is the variable behind ``scale``, of shape (channels,) or (1,), and gets the gradient.
    """
    spread = tf.reshape(scale, shape)
    count = weight.shape.num_elements() / int(step.shape[0])
    others = [axis for axis, n in enumerate(shape) if n == 1]

    @tf.custom_gradient
    def node(weight: Tensor, step: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        v = weight / spread
        q = tf.clip_by_value(tf.math.rint(v), -qmax, qmax)

        def backward(grad: Tensor) -> tuple[Tensor, Tensor]:
            within = _within(grad, v, -qmax, qmax)
            slopes = (grad * q - within * v) / spread
            slopes = tf.reduce_sum(slopes, others if step.shape[0] > 1 else None)
            return within / spread, tf.reshape(slopes, step.shape) / tf.sqrt(count * qmax)

        return q, backward

    return node(weight, step)


def requantize(
    v: Tensor,
    range_: Tensor,
    scale: Tensor,
    type_limits: tuple[Tensor, Tensor],
    limits: Limits,
    levels: float,
) -> Tensor:
    """Return ``clamp(round(v), *limits)``, with the gradients of the range's two ends where they limit the output.

    ``type_limits`` are those of the grid without a fused activation, ``levels`` apart.
    """
    type_lo, type_hi = type_limits
    lo, hi = limits

    @tf.custom_gradient
    def node(v: Tensor, ends: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
        y = tf.clip_by_value(tf.math.rint(v), lo, hi)

        def backward(grad: Tensor) -> tuple[Tensor, Tensor]:
            within = _within(grad, v, lo, hi)
            clipped = grad - within
            total = tf.reduce_sum(clipped)
            above = (tf.reduce_sum(clipped * y) - lo * total) / (hi - lo)
            rounding = tf.reduce_sum(within * (y - v)) / levels
            low_end = tf.where(tf.logical_and(tf.equal(lo, type_lo), lo < 0.0), total - above - rounding, 0.0)
            high_end = tf.where(tf.equal(hi, type_hi), above, 0.0) + rounding
            features = tf.cast(tf.size(v) // tf.shape(v)[0], tf.float32)
            factor = levels**2 / tf.sqrt(features * levels)
            return within, tf.stack([low_end, high_end]) * (factor / scale)

        return y, backward

    return node(v, range_)
