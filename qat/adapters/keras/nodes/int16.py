"""Nodes of 16-bit activations: trained like those of 8 bits, evaluated by :mod:`qat.arithmetic.int16` in exact sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from qat.arithmetic import int16 as wide
from qat.graph.kinds import KINDS

from .base import NODES, Add, Linear, Mean, Mul, Node

Tensor = Any


class WideLinear(Linear):
    """conv2d, depthwise_conv2d and dense."""

    bias_limit = wide.BIAS_LIMIT

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Accumulate exactly in float64 when evaluated."""
        if training:
            return super().integer(inputs, params, training)
        (x,), weight, bias = inputs, params["weight"], params.get("bias")
        scale = self.weight_scale(weight, bias)
        w_int, b_int = self.quantized(weight, bias, scale)
        integers = {"weight": tf.cast(w_int, tf.float64)} | ({} if b_int is None else {"bias": tf.cast(b_int, tf.float64)})
        acc = self.real([tf.cast(x, tf.float64)], integers)
        x_scale, w_scale, y_scale = (tf.cast(s, tf.float64) for s in (self.grids[0].scale, scale, self.output.scale))
        requantize = wide.requantize_conv if KINDS[self.planned.op.kind].spatial else wide.requantize_dense
        return _by_numpy(requantize, acc.shape, acc, x_scale * w_scale / y_scale, *self.limits())


class WideAdd(Add):
    """Elementwise addition."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        if training:
            return super().integer(inputs, params, training)
        ea, eb, ey = _encodings(self)
        function = lambda a, b, lo, hi: wide.add(a, b, ea, eb, ey, lo, hi)  # noqa: E731
        return _by_numpy(function, tf.broadcast_static_shape(*(t.shape for t in inputs)), *inputs, *self.limits())


class WideMul(Mul):
    """Elementwise multiplication."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Multiply and rescale."""
        if training:
            return super().integer(inputs, params, training)
        ea, eb, ey = _encodings(self)
        function = lambda a, b, lo, hi: wide.mul(a, b, ea, eb, ey, lo, hi)  # noqa: E731
        return _by_numpy(function, tf.broadcast_static_shape(*(t.shape for t in inputs)), *inputs, *self.limits())


class WideMean(Mean):
    """The mean over the spatial axes."""

    def integer(self, inputs: list[Tensor], params: dict[str, Tensor], training: bool) -> Tensor:
        """Sum and rescale."""
        if training:
            return super().integer(inputs, params, training)
        ex, ey = _encodings(self)
        axes, keepdims = tuple(self.attrs["axes"]), self.attrs["keepdims"]
        shape = tf.reduce_sum(inputs[0], axes, keepdims=keepdims).shape
        return _by_numpy(lambda x: wide.mean(x, axes, ex, ey, keepdims), shape, *inputs)


def _encodings(node: Node) -> tuple[Any, ...]:
    return tuple(grid.encoding for grid in node.grids)


def _by_numpy(function: Callable[..., np.ndarray], shape: Any, *tensors: Tensor) -> Tensor:
    y = tf.numpy_function(function, tensors, tf.float32)
    y.set_shape(shape)
    return y


WIDE: dict[str, type[Node]] = {
    **NODES,
    "conv2d": WideLinear,
    "depthwise_conv2d": WideLinear,
    "dense": WideLinear,
    "add": WideAdd,
    "mul": WideMul,
    "mean": WideMean,
}
