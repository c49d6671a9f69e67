"""Operators whose weight alone is stored in another form: float in, float out.

The weight is rounded to the values that the artifact will hold, and in dynamic mode the activation to the grid that the runtime
will choose, with straight-through gradients; the operator computes with those.
"""

from __future__ import annotations

import math

import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd.dynamic import dequantize_accumulator, on_grid
from qat.adapters.keras.autograd.functions import straight_through
from qat.arithmetic.dynamic import range_axes
from qat.graph.kinds import KINDS
from qat.planning.rounding import Rounding

from .base import Params, activate
from .linear import Linear


class StoredWeight(Linear):
    """conv2d, depthwise_conv2d or dense in one of :data:`qat.planning.modes.STORED`."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The operator on the weight as it is stored."""
        (x,), weight = inputs, params["weight"]
        w, scale = self.stored(weight)
        if self.planned.mode != "dynamic":
            return super().real([x], params | {"weight": w * tf.reshape(scale, self.channels(weight))})
        x_int, x_scale = self._on_grid(x, weight)
        acc = super().real([x_int], {"weight": w})
        return dequantize_accumulator(acc, x_scale, scale, params.get("bias"), self.kernels)

    def simulated(self, rounding: Rounding, inputs: list[Tensor], params: Params) -> Tensor:
        """Compute in float, with the weight as it is stored or not, and in dynamic mode the input on a grid or not."""
        (x,), weight = inputs, params["weight"]
        if rounding.activation and self.planned.mode == "dynamic":
            x_int, x_scale = self._on_grid(x, weight)
            x = x_int * x_scale
        if rounding.weight:
            w, scale = self.stored(weight)
            params = params | {"weight": w * tf.reshape(scale, self.channels(weight))}
        return activate(super().real([x], params), self.planned.activation)

    def _on_grid(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers of an input, less their zero point, on the grid that the runtime chooses, and their scale."""
        strides, spatial = self.attrs.get("strides", ()), bool(KINDS[self.planned.op.kind].spatial)
        axes = range_axes(spatial, strides, self.kernels, x.shape, weight.shape[:2], channel_axis=3)
        return on_grid(x, axes, self.kernels)

    def weight_scale(self, weight: Tensor, _bias: Tensor | None) -> Tensor:
        """Return the scale of each output channel of integers; a bias stays float."""
        return super().weight_scale(weight, None)

    def stored(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight as it is stored, in float32, and the scale of each output channel, of shape (channels,)."""
        if self.planned.weight is None:
            half = tf.cast(tf.cast(weight, tf.float16), tf.float32)
            return straight_through(weight, half), tf.ones([math.prod(self.channels(weight))])
        scale = self.weight_scale(weight, None)
        v = weight / tf.reshape(scale, self.channels(weight))
        return straight_through(v, tf.round(v)), scale
