"""Operators whose weight alone is stored in another form: float in, float out.

The weight is rounded to what the artifact will hold, and in dynamic mode the activation to the grid that the runtime will choose,
with straight-through gradients; the operator computes with those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from qat.adapters.keras.autograd import functions as kernels
from qat.arithmetic.dynamic import one_by_one, range_axes
from qat.graph.kinds import KINDS
from qat.planning.plan import PlannedOp

from .base import Linear

Tensor = Any


class Stored(Linear):
    """conv2d, depthwise_conv2d or dense in one of :data:`qat.planning.modes.STORED`."""

    def __init__(self, planned: PlannedOp, qmax: Any) -> None:
        super().__init__(planned, (), planned.kernels, qmax)

    def real(self, inputs: list[Tensor], params: dict[str, Tensor]) -> Tensor:
        """The operator on the weight as it is stored."""
        (x,), weight = inputs, params["weight"]
        w, scale = self.stored(weight)
        if self.planned.mode != "dynamic":
            return super().real([x], params | {"weight": w * tf.reshape(scale, self.channels(weight))})
        axes = range_axes(
            bool(KINDS[self.planned.op.kind].spatial),
            self.planned.op.attrs.get("strides", ()),
            self.kernels,
            x.shape,
            weight.shape[:2],
            channel_axis=3,
        )
        x_int, x_scale = on_dynamic_grid(x, axes, self.kernels)
        acc = super().real([x_int], {"weight": w})
        return leave(acc, x_scale, scale, params.get("bias"), self.kernels)

    def stored(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight as it is stored, in float32, and the scale of each output channel, flat."""
        spec = self.planned.weight
        count = int(np.prod(self.channels(weight)))
        if spec is None:
            return straight_through(weight, tf.cast(tf.cast(weight, tf.float16), tf.float32)), tf.ones([count])
        others = [i for i in range(len(weight.shape)) if i not in self._channel_axes(len(weight.shape))]
        per_channel = spec.granularity == "channel"
        scale = kernels.weight_scale(weight, None, tf.ones([]), self.qmax, per_channel, others)
        scale = scale if per_channel else tf.broadcast_to(scale, [count])
        v = weight / tf.reshape(scale, self.channels(weight))
        return straight_through(v, tf.round(v)), scale


@tf.custom_gradient
def straight_through(v: Tensor, replacement: Tensor) -> Any:
    """Return ``replacement`` with the gradient of ``v``."""
    return tf.identity(replacement), lambda grad: (grad, None)


def on_dynamic_grid(x: Tensor, axes: tuple[int, ...], kernels_name: str) -> tuple[Tensor, Tensor]:
    """Return a tensor on the grid that the runtime chooses for it, and its scale; see :func:`qat.arithmetic.dynamic.on_grid`."""
    seen = tf.stop_gradient(x)
    low = tf.minimum(tf.reduce_min(seen, axes, keepdims=True), 0.0)
    high = tf.maximum(tf.reduce_max(seen, axes, keepdims=True), 0.0)
    span = tf.where(low == high, 1.0, high - low)
    # A divisor that no optimizer sees through: TensorFlow turns division by a constant into multiplication by its reciprocal.
    levels = tf.where(low == high, 1.0, 255.0)
    if kernels_name == "xnnpack":
        inverse = levels / span
        from_low, from_high = -128.0 - low * inverse, 127.0 - high * inverse
        nearer = (-128.0 + low * inverse) + (127.0 + high * inverse) > 0
        zero_point = tf.round(tf.clip_by_value(tf.where(nearer, from_low, from_high), -128.0, 127.0))
        q = tf.clip_by_value(tf.round(seen * inverse) + zero_point, -128.0, 127.0) - zero_point
        return straight_through(x * inverse, q), 1.0 / inverse
    scale = span / levels
    if kernels_name == "mlas":
        zero_point = tf.round(tf.clip_by_value(-low / scale, 0.0, 255.0))
        q = tf.clip_by_value(tf.round(seen / scale) + zero_point, 0.0, 255.0) - zero_point
    else:
        step = tf.cast(span, tf.float64) / tf.cast(levels, tf.float64)
        low, high = (tf.cast(end, tf.float64) / step for end in (low, high))
        zero_point = tf.where(128.0 + tf.abs(low) < 127.0 + tf.abs(high), -128.0 - low, 127.0 - high)
        zero_point = tf.cast(_half_away(tf.clip_by_value(zero_point, -128.0, 127.0)), tf.float32)
        q = tf.clip_by_value(_half_away(seen * (1.0 / scale)) + zero_point, -128.0, 127.0) - zero_point
    return straight_through(x / scale, q), scale


def _half_away(v: Tensor) -> Tensor:
    return tf.sign(v) * tf.floor(tf.abs(v) + 0.5)


def leave(acc: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, kernels_name: str) -> Tensor:
    """Return an accumulator's real values, as :func:`qat.arithmetic.dynamic.dequantize_accumulator` does."""
    if kernels_name == "xnnpack":
        v = tf.cast(acc * x_scale, tf.float64) * tf.cast(scale, tf.float64)
        return tf.cast(v if bias is None else v + tf.cast(bias, tf.float64), tf.float32)
    if kernels_name == "builtin_depthwise":
        single = one_by_one(scale.shape[0])
        v = (acc * tf.where(single, x_scale, scale)) * tf.where(single, scale, x_scale)
    else:
        v = (acc * scale) * x_scale if kernels_name == "builtin_groups" else acc * (x_scale * scale)
    return v if bias is None else v + bias
