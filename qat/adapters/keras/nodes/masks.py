"""The node of masked scores; :mod:`qat.arithmetic.masks` says what their scale has to hold."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.arithmetic import masks

from .base import Node, Params


class Mask(Node):
    """The scores where the mask is positive, elsewhere the least integer."""

    def __call__(self, inputs: list[Tensor], params: Params, training: bool, on_grid: bool) -> Tensor:
        """In calibration show the estimator what the scores' scale has to hold."""
        if not self.grids or on_grid or training:
            return super().__call__(inputs, params, training, on_grid)
        if self.output.estimator is not None:
            seen = masks.spread(np.asarray(inputs[0]), np.asarray(inputs[1]), self.attrs["reach"])
            if seen.size:
                self.output.estimate(seen, self.planned.op.output)
        return self.real(inputs, params)

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Choose between integers; where the range is tracked it keeps room for hidden scores."""
        x, shown = inputs
        y = tf.where(shown > 0, x, tf.convert_to_tensor(self.output.lo))
        if not training:
            return y
        with tf.control_dependencies([self.observe(_ends(y, shown, self.attrs["reach"] / self.output.scale))]):
            return tf.identity(y)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The scores in float."""
        x, shown = inputs
        return tf.where(shown > 0, x, self.attrs.get("hidden", masks.HIDDEN))


def _ends(y: Tensor, shown: Tensor, reach: Tensor) -> Tensor:
    """Return the extremes of :func:`qat.arithmetic.masks.spread`, of scores on the grid."""
    greatest = tf.stop_gradient(tf.reduce_max(y, -1, keepdims=True))
    some = tf.reduce_any(shown > 0, -1, keepdims=True)
    low = tf.reduce_min(tf.where(some, greatest - reach, np.inf))
    return tf.stack([tf.minimum(low, 0.0), tf.maximum(tf.reduce_max(tf.where(some, greatest, -np.inf)), 0.0)])
