"""The nodes of LayerNorm and RMSNorm; the arithmetic is that of :mod:`qat.arithmetic.layer_norm`.

TensorFlow may turn a division into a product with a rounded reciprocal. Each float32 operator of that arithmetic is hence one of
float64 here, whose result is rounded: the same bits, since float64 has more than twice the digits.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from .base import Node, Params
from .quantize import quantize


def _rounded(x: Tensor) -> Tensor:
    return tf.cast(tf.cast(x, tf.float32), tf.float64)


class LayerNorm(Node):
    """Normalization over the last axis."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """In training compute the float formula on integers; else compute by sums of integers."""
        (x,), (gx, gy) = inputs, self.grids
        gamma, beta = _in_line(params.get("gamma")), _in_line(params.get("beta"))
        epsilon = _scaled_epsilon(self.attrs["epsilon"], gx.scale)
        if training:
            return self.finish(_layer_norm(x, gamma, beta, tf.cast(epsilon, tf.float32)) / gy.scale, training)
        q = tf.cast(x, tf.float64) + tf.cast(gx.zero_point, tf.float64)
        n = tf.cast(tf.shape(q)[-1], tf.float64)
        total = tf.reduce_sum(q, -1, keepdims=True)
        c = tf.round(_rounded(total / n))
        d, rest = q - c, _rounded((total - c * n) / n)
        squares = _rounded(tf.reduce_sum(d * d, -1, keepdims=True))
        variance = _rounded(_rounded(_rounded(squares / n) - _rounded(rest * rest)) + epsilon)
        y = _rounded(_rounded(d - rest) / _rounded(tf.sqrt(variance)))
        return _quantized(self, y, gamma, beta)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float normalization."""
        return _layer_norm(inputs[0], _in_line(params.get("gamma")), _in_line(params.get("beta")), self.attrs["epsilon"])


class RmsNorm(Node):
    """Division by the root of the mean square over the last axis."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """In training compute the float formula on integers; else compute by sums of integers."""
        (x,), (gx, gy) = inputs, self.grids
        gamma, epsilon = _in_line(params.get("gamma")), _scaled_epsilon(self.attrs["epsilon"], gx.scale)
        least = _rounded(tf.maximum(self.attrs["least"] / tf.cast(gx.scale, tf.float64), 1e-30))
        if training:
            return self.finish(_rms_norm(x, gamma, *(tf.cast(v, tf.float32) for v in (epsilon, least))) / gy.scale, training)
        q = tf.cast(x, tf.float64)
        squares = _rounded(tf.reduce_sum(q * q, -1, keepdims=True))
        mean = _rounded(squares / tf.cast(tf.shape(q)[-1], tf.float64))
        root = _rounded(tf.sqrt(_rounded(mean + epsilon)))
        return _quantized(self, _rounded(q / tf.maximum(root, least)), gamma, None)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float normalization."""
        return _rms_norm(inputs[0], _in_line(params.get("gamma")), self.attrs["epsilon"], max(self.attrs["least"], 1e-30))


def _scaled_epsilon(epsilon: float, scale: Tensor) -> Tensor:
    return _rounded(epsilon / tf.cast(scale, tf.float64) ** 2)


def _quantized(node: Node, y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    y = y if gamma is None else _rounded(y * tf.cast(gamma, tf.float64))
    y = y if beta is None else _rounded(y + tf.cast(beta, tf.float64))
    return quantize(tf.cast(y, tf.float32), node.output, node.kernels, False)


def _layer_norm(x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: Any) -> Tensor:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    y = centred / tf.sqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _rms_norm(x: Tensor, gamma: Tensor | None, epsilon: Any, least: Any) -> Tensor:
    y = x / tf.maximum(tf.sqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon), least)
    return y if gamma is None else y * gamma


def _in_line(parameter: Tensor | None) -> Tensor | None:
    """Return a parameter of the normalized axes as one axis: a model that writes its LayerNorm out may hold it in any shape."""
    return parameter if parameter is None or len(parameter.shape) == 1 else tf.reshape(parameter, [-1])
