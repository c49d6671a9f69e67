"""Nodes that move integers without changing them."""

from __future__ import annotations

import tensorflow as tf
from tensorflow import Tensor

from .base import Node, Params


class DataMovement(Node):
    """Operators that move integers without changing them: one scale for inputs and output, the same code in float."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Move the integers."""
        return self.real(inputs, params)


class MaxPool2d(DataMovement):
    """Max pooling; the grid's order is that of the real values."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Pool; padding never wins."""
        padding = self.attrs["padding"]
        explicit = "VALID" if padding == ((0, 0), (0, 0)) else [(0, 0), *padding, (0, 0)]
        return tf.nn.max_pool2d(inputs[0], self.attrs["kernel"], self.attrs["strides"], explicit)


class Concat(DataMovement):
    """Concatenation of tensors that share one scale."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Concatenate."""
        return tf.concat(inputs, self.attrs["axis"])


class Reshape(DataMovement):
    """Any change of shape that keeps the batch first."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Reshape."""
        return tf.reshape(inputs[0], self.attrs["shape"])


class Transpose(DataMovement):
    """A permutation of the axes after the batch."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Permute."""
        return tf.transpose(inputs[0], self.attrs["axes"])


class Pad(DataMovement):
    """Spatial padding with zeros, which are 0 on the grid too."""

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """Pad."""
        return tf.pad(inputs[0], [(0, 0), *self.attrs["padding"], (0, 0)])
