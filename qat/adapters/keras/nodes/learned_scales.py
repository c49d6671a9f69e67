"""Nodes with a weight whose scale is learned; :mod:`qat.adapters.keras.autograd.learned_scales` has the arithmetic."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd import learned_scales as learned
from qat.arithmetic.range_estimators import weight_step

from .base import Params
from .linear import Linear


class LearnedLinear(Linear):
    """conv2d, depthwise_conv2d and dense with a learned weight scale, a learned output range, or both.

    Attributes:
        weight_step: the variable with the weight's scales, one an output channel, or one for all; None where the largest
            magnitude decides.
    """

    weight_step: keras.Variable | None = None

    def count(self, shape: tuple[int, ...]) -> int:
        """Return how many scales a weight of that shape has; 0 where they are not learned."""
        spec = self.planned.weight
        assert spec is not None
        if not spec.learned:
            return 0
        return math.prod(shape[a] for a in self.channel_axes(len(shape))) if spec.granularity == "channel" else 1

    def start(self, weight: np.ndarray) -> None:
        """Set the scale where training starts: that of the least squared error."""
        if self.weight_step is not None:
            axes = self.channel_axes(weight.ndim)
            flat = np.moveaxis(weight, axes, range(len(axes))).reshape(math.prod(weight.shape[a] for a in axes), -1)
            one_a_channel = self.weight_step.shape[0] == len(flat)
            self.weight_step.assign(weight_step(flat, self.planned.qmax, 0 if one_a_channel else None))

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """The kernel as three nodes, so that each rounding has its own gradient."""
        (x,), weight, bias = inputs, params["weight"], params.get("bias")
        scale = self.weight_scale(weight, bias)
        if self.fixed_point and not training:
            return self.by_tflite(x, weight, bias, scale)
        w_int, b_int = self.quantized(weight, bias, scale)
        acc = self.exact_operator(x, weight, training).forward(x, w_int)
        acc = acc if b_int is None else tf.nn.bias_add(acc, b_int)
        return self.finish(acc * (scale * self.inputs[0].scale / self.output.scale), training)

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the learned scale for each output channel, no smaller than the bias needs."""
        step = self.weight_step
        if step is None:
            return super().weight_scale(weight, bias)
        scale = tf.maximum(tf.convert_to_tensor(step), np.float32(np.finfo(np.float32).tiny * 2.0**40))
        floor = self.floor(bias)
        if floor is not None:
            scale = tf.maximum(scale, floor if step.shape[0] > 1 else tf.reduce_max(floor))
        return tf.stop_gradient(tf.broadcast_to(scale, [math.prod(self.channels(weight))]))

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers with straight-through gradients."""
        step = scale if self.weight_step is None else tf.convert_to_tensor(self.weight_step)
        w_int = learned.quantize_weight(weight, step, scale, self.channels(weight), tf.convert_to_tensor(self.qmax))
        return w_int, None if bias is None else learned.round_through(bias / (scale * self.inputs[0].scale))
