"""Nodes of 16-bit activations: trained like those of 8 bits, evaluated by :mod:`qat.arithmetic.int16` in exact sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import int16
from qat.arithmetic.encoding import Encoding
from qat.graph.kinds import KINDS

from .averages import Mean
from .base import Node, Params
from .elementwise import Add, Mul
from .linear import Linear


class Int16Linear(Linear):
    """conv2d, depthwise_conv2d and dense."""

    bias_limit = int16.BIAS_LIMIT

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Accumulate exactly in float64 when evaluated."""
        if training:
            return super().integer(inputs, params, training)
        (x,), weight, bias = inputs, params["weight"], params.get("bias")
        scale = self.weight_scale(weight, bias)
        w_int, b_int = self.quantized(weight, bias, scale)
        integers = {"weight": tf.cast(w_int, tf.float64)} | ({} if b_int is None else {"bias": tf.cast(b_int, tf.float64)})
        acc = self.real([tf.cast(x, tf.float64)], integers)
        requantize = int16.requantize_conv if KINDS[self.planned.op.kind].spatial else int16.requantize_dense
        return _by_numpy(requantize, acc.shape, acc, self.multiplier(scale), *self.limits())


class Int16Add(Add):
    """Elementwise addition."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        return super().integer(inputs, params, training) if training else _binary(self, int16.add, inputs)


class Int16Mul(Mul):
    """Elementwise multiplication."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Multiply and rescale."""
        return super().integer(inputs, params, training) if training else _binary(self, int16.mul, inputs)


class Int16Mean(Mean):
    """The mean over the spatial axes."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Sum and rescale."""
        if training:
            return super().integer(inputs, params, training)
        ex, ey = _encodings(self)
        axes, keepdims = tuple(self.attrs["axes"]), self.attrs["keepdims"]
        shape = tf.reduce_sum(inputs[0], axes, keepdims=keepdims).shape
        return _by_numpy(lambda x: int16.mean(x, axes, ex, ey, keepdims), shape, *inputs)


def _binary(node: Node, function: Callable[..., np.ndarray], inputs: list[Tensor]) -> Tensor:
    """Return ``function`` of two tensors, their encodings and the output's, and its limits."""
    encodings = _encodings(node)
    shape = tf.broadcast_static_shape(*(t.shape for t in inputs))
    return _by_numpy(lambda a, b, lo, hi: function(a, b, *encodings, lo, hi), shape, *inputs, *node.limits())


def _encodings(node: Node) -> tuple[Encoding, ...]:
    return tuple(grid.encoding for grid in node.grids)


def _by_numpy(function: Callable[..., np.ndarray], shape: tf.TensorShape, *tensors: Tensor) -> Tensor:
    y = tf.numpy_function(function, tensors, tf.float32)
    y.set_shape(shape)
    return y
