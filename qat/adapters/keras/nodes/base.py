"""The base of the integer-grid nodes: one class per kernel, on tensors.

A node runs in float until its model is calibrated, then on the grid. Parameters and grids belong to the model that calls it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd import functions as kernels
from qat.adapters.keras.autograd.learned_scales import requantize
from qat.adapters.keras.autograd.runtimes import RUNTIMES, Runtime
from qat.errors import CalibrationError
from qat.planning.plan import PlannedOp

from .activation_grid import Grid

#: Parameters by role.
Params = dict[str, Tensor]


class Node:
    """One planned operator. ``grids`` are those of its inputs, then of its output, shared with its neighbours.

    An operator that the plan leaves float has no grids and always computes :meth:`real`.

    Attributes:
        kernels: the name of the target's arithmetic, by which :mod:`qat.arithmetic` knows it.
        qmax: the largest magnitude of the integer weight, a variable; None without a weight.
    """

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str, qmax: keras.Variable | None) -> None:
        self.planned, self.grids, self.kernels, self.qmax = planned, grids, kernels_name, qmax
        self.attrs: dict[str, Any] = dict(planned.op.attrs)

    @property
    def inputs(self) -> tuple[Grid, ...]:
        """The grids of the inputs."""
        return self.grids[:-1]

    @property
    def output(self) -> Grid:
        """The grid of the output."""
        return self.grids[-1]

    @property
    def runtime(self) -> Runtime:
        """The target's arithmetic in TensorFlow."""
        return RUNTIMES[self.kernels]

    def __call__(self, inputs: list[Tensor], params: Params, training: bool, on_grid: bool) -> Tensor:
        """Compute on the grid once calibrated, else in float."""
        if self.grids and on_grid:
            return self.integer(inputs, params, training)
        if self.grids and training:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        y = activate(self.real(inputs, params), self.planned.activation)
        if self.grids:
            self.output.estimate(y)
        return y

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """The integer kernel."""
        raise NotImplementedError

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The same operator in float, without its fused activation."""
        raise NotImplementedError

    def limits(self) -> tuple[Tensor | float, Tensor]:
        """Return the limits of the output on its grid: the type's, narrowed by the fused activation.

        Every range contains 0, so that an activation's lower limit is the number 0.
        """
        hi = tf.convert_to_tensor(self.output.hi)
        lo = 0.0 if self.planned.activation in ("relu", "relu6") else tf.convert_to_tensor(self.output.lo)
        if self.planned.activation == "relu6":
            hi = tf.minimum(hi, tf.round(6.0 / self.output.scale))
        return lo, hi

    def observe(self, v: Tensor) -> Tensor:
        """Let the output's range follow ``v`` in a training pass that tracks ranges; return ``v``."""
        activation = self.planned.activation
        low = tf.constant(0.0 if activation else -np.inf, tf.float32)
        high = 6.0 / self.output.scale if activation == "relu6" else tf.constant(np.inf, tf.float32)
        return self.output.observe(v, low, high)

    def finish(self, v: Tensor, training: bool) -> Tensor:
        """Observe unrounded grid values in training, then round and clamp with a straight-through gradient."""
        grid = self.output
        if training and grid.group.learned:
            levels = float(grid.group.qmax - grid.group.qmin)
            scale, *ends = (tf.convert_to_tensor(t) for t in (grid.scale, grid.lo, grid.hi))
            return requantize(v, grid.range, scale, (ends[0], ends[1]), self.limits(), levels)
        return kernels.round_clamp(self.observe(v) if training else v, *self.limits())


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply a fused activation in float."""
    if activation == "relu":
        return tf.nn.relu(x)
    return tf.nn.relu6(x) if activation == "relu6" else x
