"""Nodes with parameters: convolutions, fully connected layers, and the BatchNorm that could not be folded."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd import linear as kernels
from qat.adapters.keras.autograd import tflite
from qat.arithmetic.grid import BIAS_LIMIT
from qat.graph.kinds import KINDS
from qat.graph.padding import same_padding
from qat.planning.rounding import Rounding

from .base import Node, Params


class Linear(Node):
    """conv2d, depthwise_conv2d and dense, with bias and fused activation.

    Attributes:
        bias_limit: the largest integer of a bias, in grid units.
    """

    bias_limit: float = BIAS_LIMIT

    def operator(self, x: Tensor, weight: Tensor) -> kernels.Operator:
        """The linear operator for an input and a weight."""
        kind = KINDS[self.planned.op.kind]
        if not kind.spatial:
            return kernels.MatMul()
        return kernels.Convolution(self.attrs["strides"], self._padding(x, weight), self.attrs["dilations"], kind.depthwise)

    def exact_operator(self, x: Tensor, weight: Tensor, training: bool) -> kernels.Operator:
        """The same operator for integers, whose sums are the same in any order: in training the one with quick gradients."""
        if not training or self.planned.op.kind != "conv2d" or weight.shape[:3] != (1, 1, x.shape[-1]):
            return self.operator(x, weight)
        plain = tuple(self.attrs["strides"]) == (1, 1) and self.attrs["padding"] == ((0, 0), (0, 0))
        return kernels.Pointwise() if plain else self.operator(x, weight)

    def _padding(self, x: Tensor, weight: Tensor) -> kernels.Padding:
        """Return TensorFlow's word for the padding where it has one: its kernels are faster than with explicit numbers."""
        padding: kernels.Padding = self.attrs["padding"]
        if padding == ((0, 0), (0, 0)):
            return "VALID"
        window = [(k - 1) * d + 1 for k, d in zip(weight.shape[:2], self.attrs["dilations"], strict=True)]
        return "SAME" if padding == same_padding(x.shape[1:3], window, self.attrs["strides"]) else padding

    @property
    def fixed_point(self) -> bool:
        """Whether a kernel of TFLite's own runs the operator, because the delegate does not take it."""
        return self.planned.kernels.startswith("builtin")

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """One node from the float weight to the output's integers."""
        (x,), weight, bias = inputs, params["weight"], params.get("bias")
        scale = self.weight_scale(weight, bias)
        if self.fixed_point and not training:
            return self.by_tflite(x, weight, bias, scale)
        scales = (tf.convert_to_tensor(self.inputs[0].scale), tf.convert_to_tensor(self.output.scale))
        operator, observe = self.exact_operator(x, weight, training), self.observe if training else None
        return kernels.linear(x, weight, bias, scale, self.channels(weight), scales, self.limits(), operator, observe)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float operator."""
        (x,), weight = inputs, params["weight"]
        y = self.operator(x, weight).forward(x, weight)
        return y + params["bias"] if "bias" in params else y

    def simulated(self, rounding: Rounding, inputs: list[Tensor], params: Params) -> Tensor:
        """Compute in float, with the weight rounded or not."""
        if rounding.weight and self.planned.weight is not None:
            params = params | {"weight": self.rounded_weight(params["weight"], params.get("bias"))}
        return super().simulated(rounding, inputs, params)

    def rounded_weight(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the real values of the weight's integers."""
        scale = self.weight_scale(weight, bias)
        return self.quantized(weight, None, scale)[0] * tf.reshape(scale, self.channels(weight))

    def by_tflite(self, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
        """Return the output's integers as TFLite's own kernel computes them."""
        w_int, b_int = self.quantized(weight, bias, scale)
        acc = self.operator(x, weight).forward(x, w_int)
        acc = acc if b_int is None else acc + b_int
        return tflite.requantize(acc, self.multiplier(scale), self.limits(), self.planned.kernels == "builtin")

    def multiplier(self, scale: Tensor) -> Tensor:
        """Return ``s_x s_w / s_y`` in float64, one value an output channel."""
        x_scale, w_scale, y_scale = (tf.cast(s, tf.float64) for s in (self.inputs[0].scale, scale, self.output.scale))
        return x_scale * w_scale / y_scale

    def channels(self, weight: Tensor) -> tuple[int, ...]:
        """Return the shape that lays one value per output channel along the weight's axes."""
        axes = self.channel_axes(len(weight.shape))
        return tuple(int(n) if i in axes else 1 for i, n in enumerate(weight.shape))

    def channel_axes(self, rank: int) -> tuple[int, ...]:
        """Return the axes of the output channels in a weight of a rank; a dense layer's is a matrix here."""
        axis = self.attrs["channel_axis"] if KINDS[self.planned.op.kind].spatial else 1
        return tuple(a % rank for a in ((axis,) if isinstance(axis, int) else axis))

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the weight's scale for each output channel, of shape (channels,)."""
        spec = self.planned.weight
        assert spec is not None
        per_channel = spec.granularity == "channel"
        axes = self.channel_axes(len(weight.shape))
        others = [i for i in range(len(weight.shape)) if i not in axes]
        scale = kernels.weight_scale(weight, self.floor(bias), self.qmax, per_channel, others)
        return scale if per_channel else tf.broadcast_to(scale, [math.prod(self.channels(weight))])

    def floor(self, bias: Tensor | None) -> Tensor | None:
        """Return the smallest scale of each output channel with which its bias stays below :attr:`bias_limit`."""
        return None if bias is None else tf.abs(bias) / (self.inputs[0].scale * np.float32(self.bias_limit))

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers, as the kernel computes them."""
        w_int = tf.round(weight / tf.reshape(scale, self.channels(weight)))
        return w_int, None if bias is None else tf.round(bias / (scale * self.inputs[0].scale))


class BatchNorm(Node):
    """A BatchNorm that could not be folded: its running statistics, in float."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Normalize with the running statistics."""
        p, (x,) = params, inputs
        return tf.nn.batch_normalization(x, p["mean"], p["variance"], p.get("beta"), p.get("gamma"), self.attrs["epsilon"])
