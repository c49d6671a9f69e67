"""The borders of a region: float to the grid and back, and a parameter's way onto it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd.functions import round_clamp
from qat.adapters.keras.autograd.runtimes import RUNTIMES

from .activation_grid import Grid
from .base import Node, Params


def quantize(x: Tensor, grid: Grid, kernels_name: str, training: bool) -> Tensor:
    """Return ``x`` on a grid, as the runtime quantizes it."""
    v = RUNTIMES[kernels_name].divide_by_scale(x, grid.scale)
    if training:
        v = grid.observe(v, tf.constant(-np.inf, tf.float32), tf.constant(np.inf, tf.float32))
    return round_clamp(v, tf.convert_to_tensor(grid.lo), tf.convert_to_tensor(grid.hi))


class Constant(Node):
    """A parameter on the grid. Its range is calibrated and observed as an activation's is."""

    def integer(self, inputs: list[Tensor], params: Params, training: bool) -> Tensor:
        """Quantize; the gradient reaches the parameter in its own unit."""
        return quantize(params["value"], self.output, self.kernels, training)

    def real(self, inputs: list[Tensor], params: Params) -> Tensor:
        """The parameter itself."""
        return params["value"]
