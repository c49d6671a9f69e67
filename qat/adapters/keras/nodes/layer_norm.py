"""The nodes of LayerNorm, GroupNorm and RMSNorm; the arithmetic is that of :mod:`qat.arithmetic.layer_norm`.

TensorFlow may turn a division into a product with a rounded reciprocal. Each float32 operator of that arithmetic is hence one of
float64 here, whose result is rounded: the same bits, since float64 has more than twice the digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic.layer_norm import SMALLEST_SQUARE, smallest_square

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
            return self.finish(self._float(x, gamma, beta, tf.cast(epsilon, tf.float32)) / gy.scale, training)
        y, deviation = _centred(x, gx.zero_point, epsilon)
        y = tf.cast(x, tf.float64) if self.uncentered else y
        return _quantized(self, _rounded(y / deviation), gamma, beta)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float normalization."""
        return self._float(inputs[0], _in_line(params.get("gamma")), _in_line(params.get("beta")), self.attrs["epsilon"])

    @property
    def uncentered(self) -> bool:
        """Whether it only divides by the deviation."""
        return bool(self.attrs.get("uncentered", False))

    def _float(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: Any) -> Tensor:
        y = _normalized(x, [-1], epsilon, self.uncentered)
        return _affine(y, gamma, beta)


class GroupNorm(Node):
    """Normalization over all axes but the batch, in groups of the channels."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """In training compute the float formula on integers; else compute by sums of integers."""
        (x,), (gx, gy) = inputs, self.grids
        gamma, beta = (self._along(params.get(role), len(x.shape)) for role in ("gamma", "beta"))
        epsilon = _scaled_epsilon(self.attrs["epsilon"], gx.scale)
        if training:
            y = self._normalized(x, tf.cast(epsilon, tf.float32))
            return self.finish(_affine(y, gamma, beta) / gy.scale, training)
        grouped, axes = self._grouped(x)
        y, deviation = _centred(grouped, gx.zero_point, epsilon, axes)
        return _quantized(self, tf.reshape(_rounded(y / deviation), tf.shape(x)), gamma, beta)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float normalization."""
        (x,) = inputs
        gamma, beta = (self._along(params.get(role), len(x.shape)) for role in ("gamma", "beta"))
        return _affine(self._normalized(x, self.attrs["epsilon"]), gamma, beta)

    def _normalized(self, x: Tensor, epsilon: Any) -> Tensor:
        grouped, axes = self._grouped(x)
        return tf.reshape(_normalized(grouped, axes, epsilon), tf.shape(x))

    def _grouped(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return the input with an axis for the groups and one for the channels of each, and the axes to sum over."""
        axis, groups, shape = self.attrs["axis"], self.attrs["groups"], x.shape
        sizes = [-1, *shape[1:axis], groups, shape[axis] // groups, *shape[axis + 1 :]]
        return tf.reshape(x, sizes), [a for a in range(1, len(sizes)) if a != axis]

    def _along(self, parameter: Tensor | None, rank: int) -> Tensor | None:
        """Return a parameter of the channels along their axis."""
        along = [-1 if a == self.attrs["axis"] else 1 for a in range(rank)]
        return None if parameter is None else tf.reshape(parameter, along)


class RmsNorm(Node):
    """Division by the root of the mean square over the last axis."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """In training compute the float formula on integers; else compute by sums of integers."""
        (x,), (gx, gy) = inputs, self.grids
        gamma, epsilon = _in_line(params.get("gamma")), _scaled_epsilon(self.attrs["epsilon"], gx.scale)
        least = _rounded(tf.maximum(self.attrs["least"] / tf.cast(gx.scale, tf.float64), 1e-30))
        if training:
            epsilon, least = (tf.cast(v, tf.float32) for v in (epsilon, least))
            y = _rms_norm(x, gamma, epsilon, least, smallest_square(x.shape[-1]))
            return self.finish(y / gy.scale, training)
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


def _centred(x: Tensor, zero_point: Tensor, epsilon: Tensor, axes: Sequence[int] = (-1,)) -> tuple[Tensor, Tensor]:
    """Return ``x - mean`` and ``sqrt(variance + epsilon)`` over axes, as :mod:`qat.arithmetic.layer_norm` does."""
    q = tf.cast(x, tf.float64) + tf.cast(zero_point, tf.float64)
    n = tf.cast(tf.reduce_prod(tf.gather(tf.shape(q), [a % len(q.shape) for a in axes])), tf.float64)
    mean = _rounded(_rounded(tf.reduce_sum(q, axes, keepdims=True)) / n)
    c = tf.round(mean)
    d, rest = q - c, mean - c
    squares = _rounded(tf.reduce_sum(d * d, axes, keepdims=True))
    variance = _rounded(_rounded(_rounded(squares / n) - _rounded(rest * rest)) + epsilon)
    return _rounded(q - mean), _rounded(tf.sqrt(variance))


def _normalized(x: Tensor, axes: Sequence[int], epsilon: Any, uncentered: bool = False) -> Tensor:
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(centred), axes, keepdims=True) + epsilon)
    return (x if uncentered else centred) / deviation


def _affine(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _rms_norm(x: Tensor, gamma: Tensor | None, epsilon: Any, least: Any, square: float = SMALLEST_SQUARE) -> Tensor:
    # A row of zeros has the quotient zero whatever divides it, but the root of zero has no gradient.
    mean = tf.maximum(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon, square)
    y = x / tf.maximum(tf.sqrt(mean), least)
    return y if gamma is None else y * gamma


def _in_line(parameter: Tensor | None) -> Tensor | None:
    """Return a parameter of the normalized axes as one axis: a model that writes its LayerNorm out may hold it in any shape."""
    return parameter if parameter is None or len(parameter.shape) == 1 else tf.reshape(parameter, [-1])
