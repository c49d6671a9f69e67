"""Nodes that average: exact sums, rescaled."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd import eigen

from .base import Node, Params


class Mean(Node):
    """The mean over the spatial axes."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Sum and rescale by ``s_x / (s_y * count)``."""
        (x,), axes, (gx, gy) = inputs, list(self.attrs["axes"]), self.grids
        count = np.float32(math.prod(x.shape[a] for a in axes))
        total = tf.reduce_sum(x, axes, keepdims=self.attrs["keepdims"])
        if not training:
            return self.runtime.mean(total, count, (gx, gy), self.limits())
        return self.finish(total * (gx.scale / (gy.scale * count)), training)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float mean."""
        return tf.reduce_mean(inputs[0], list(self.attrs["axes"]), keepdims=self.attrs["keepdims"])


class AvgPool2d(Node):
    """Average pooling over the elements inside the image; input and output share one scale."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Sum exactly, divide, round as the kernel does."""
        total, count = self._sums(inputs[0])
        if not training:
            return self.runtime.avg_pool2d(total, count, self.output, self.limits(), any(map(any, self.attrs["padding"])))
        return self.finish(self.runtime.divide_by_count(total, count, self.output), training)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The float average."""
        total, count = self._sums(inputs[0])
        return total / count

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        padding = [(0, 0), *self.attrs["padding"], (0, 0)]

        def windows(values: Tensor) -> Tensor:
            ones = tf.ones((*self.attrs["kernel"], values.shape[-1], 1))
            return eigen.depthwise(tf.pad(values, padding), ones, self.attrs["strides"])

        return windows(x), windows(tf.ones((1, *x.shape[1:3], 1)))
