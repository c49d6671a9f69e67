"""The base of the integer-grid nodes: one class per kernel, on tensors.

A node runs in float until its model is calibrated, then on the grid. Parameters and grids belong to the model that calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd.functions import Limits, round_clamp
from qat.adapters.keras.autograd.learned_scales import requantize
from qat.adapters.keras.autograd.runtimes import RUNTIMES, Runtime
from qat.errors import CalibrationError
from qat.graph.kinds import bounds
from qat.planning.plan import PlannedOp
from qat.planning.rounding import Rounding

from .activation_grid import Grid
from .quantize import fake_quantized

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
        in_file = on_grid and not training and not self.grids
        y = activate((self.evaluated if in_file else self.real)(inputs, params), self.planned.activation)
        if self.grids:
            self.output.estimate(y, self.planned.op.output)
        return y

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """The integer kernel."""
        raise NotImplementedError

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The same operator in float, without its fused activation."""
        raise NotImplementedError

    def evaluated(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The same as the runtime computes an operator that stays float."""
        return self.real(inputs, params)

    def simulated(self, rounding: Rounding, inputs: list[Tensor], params: Params) -> Tensor:
        """Compute in float, whether calibrated or not, with the roundings that are asked for."""
        y = activate(self.real(inputs, params), self.planned.activation)
        return fake_quantized(y, self.output, self.kernels) if rounding.activation and self.grids else y

    def limits(self) -> Limits:
        """Return the limits of the output on its grid: the type's, narrowed by the fused activation.

        Every range contains 0, so that the lower limit of an activation is the number 0.
        """
        low, high = bounds(self.planned.activation)
        hi = tf.convert_to_tensor(self.output.hi)
        lo = tf.convert_to_tensor(self.output.lo) if low is None else low
        return lo, hi if high is None else tf.minimum(hi, tf.round(high / self.output.scale))

    def observe(self, v: Tensor) -> Tensor:
        """Let the output's range follow ``v`` in a training pass that tracks ranges; return ``v``."""
        low, high = bounds(self.planned.activation)
        lowest = tf.constant(-np.inf if low is None else low, tf.float32)
        highest = tf.constant(np.inf, tf.float32) if high is None else high / self.output.scale
        return self.output.observe(v, lowest, highest)

    def finish(self, v: Tensor, training: bool) -> Tensor:
        """Observe unrounded grid values in training, then round and clamp with a straight-through gradient."""
        grid = self.output
        if training and grid.group.learned:
            levels = float(grid.group.qmax - grid.group.qmin)
            scale, *ends = (tf.convert_to_tensor(t) for t in (grid.scale, grid.lo, grid.hi))
            return requantize(v, grid.range, scale, (ends[0], ends[1]), self.limits(), levels)
        return round_clamp(self.observe(v) if training else v, self.limits())


#: The activations that a kernel can absorb.
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply a fused activation in float."""
    return _ACTIVATIONS[activation](x) if activation else x
