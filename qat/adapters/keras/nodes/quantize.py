"""The borders of a region on the grid: float to integers, and integers to float."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from qat.adapters.keras.autograd.functions import round_clamp, straight_through
from qat.adapters.keras.autograd.runtimes import RUNTIMES

from .activation_grid import Grid


def quantize(x: Tensor, grid: Grid, kernels_name: str, training: bool) -> Tensor:
    """Return ``x`` on a grid, as the runtime quantizes it."""
    return round_clamp(_in_units(x, grid, kernels_name, training), (tf.convert_to_tensor(grid.lo), tf.convert_to_tensor(grid.hi)))


def quantize_parameter(x: Tensor, grid: Grid, kernels_name: str, training: bool) -> Tensor:
    """Return a parameter on a grid, by :func:`quantize`, with the whole of its gradient.

    An activation at an end of its range has no gradient there. A parameter would never leave that end: one that starts at zero,
    whose range is zero, would not train at all.
    """
    v = _in_units(x, grid, kernels_name, training)
    on_grid = round_clamp(v, (tf.convert_to_tensor(grid.lo), tf.convert_to_tensor(grid.hi)))
    return on_grid if grid.group.learned else straight_through(v, on_grid)


def _in_units(x: Tensor, grid: Grid, kernels_name: str, training: bool) -> Tensor:
    """Return ``x`` in units of a grid, unrounded."""
    v = RUNTIMES[kernels_name].divide_by_scale(x, grid.scale)
    return grid.observe(v, tf.constant(-np.inf, tf.float32), tf.constant(np.inf, tf.float32)) if training else v


def fake_quantized(x: Tensor, grid: Grid, kernels_name: str) -> Tensor:
    """Return the real values on a grid that the runtime would hold in place of ``x``."""
    return dequantize(quantize(x, grid, kernels_name, training=False), grid)


def dequantize(x: Tensor, grid: Grid) -> Tensor:
    """Return the real values of a tensor on a grid."""
    # A rounded -0.3 is -0.0; the runtime's zero, of integers, has no sign, which atan2 and 1 / x would tell.
    return x * grid.scale + 0.0
