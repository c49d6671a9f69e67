"""Nodes that compute element by element: addition, multiplication, minimum, maximum, and the ReLUs that no kernel absorbed."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from .base import Node, Params


class Add(Node):
    """Elementwise addition; the tensors broadcast."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        (a, b), (ga, gb, gy) = inputs, self.grids
        if not training:
            return self.runtime.add(a, b, (ga, gb, gy), self.limits())
        return self.finish(a * (ga.scale / gy.scale) + b * (gb.scale / gy.scale), training)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Float addition."""
        return inputs[0] + inputs[1]


class Mul(Node):
    """Elementwise multiplication; the tensors broadcast."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Multiply and rescale."""
        (a, b), (ga, gb, gy) = inputs, self.grids
        v = a * b * ((ga.scale * gb.scale) / gy.scale)
        return self.finish(v, training) if training else self.runtime.round_product(v, gy, self.limits())

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Float multiplication."""
        return inputs[0] * inputs[1]


class Minimum(Node):
    """The smaller of two tensors of one scale; the tensors broadcast."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Compare integers: their order is that of the real values."""
        return tf.minimum(*inputs)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float minimum."""
        return tf.minimum(*inputs)


class Maximum(Node):
    """The greater of two tensors of one scale; the tensors broadcast."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Compare integers: their order is that of the real values."""
        return tf.maximum(*inputs)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float maximum."""
        return tf.maximum(*inputs)


class Relu(Node):
    """A ReLU that no kernel absorbed; zero is 0 on the grid too."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Clamp at 0."""
        return self.real(inputs, params)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float ReLU."""
        return tf.nn.relu(inputs[0])


class Relu6(Node):
    """A ReLU6 that no kernel absorbed."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Clamp at the integer nearest to 6."""
        return tf.clip_by_value(inputs[0], 0.0, tf.minimum(self.output.hi, tf.round(6.0 / self.output.scale)))

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float ReLU6."""
        return tf.nn.relu6(inputs[0])
