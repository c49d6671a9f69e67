"""LiteRT's delegate in PyTorch, exact in every bit; :mod:`qat.arithmetic.xnnpack` has the formulas and their sources.

TFLite's own kernels run the operators that the delegate does not take: pooling, softmax, and additions of very different scales.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qat.arithmetic import xnnpack

from . import tflite
from .clip_mask import Limits
from .functions import Encoded
from .mlas import requantize as requantize
from .tflite import avg_pool2d as avg_pool2d
from .tflite import divide_by_count as divide_by_count
from .tflite import probabilities as probabilities
from .tflite import round_product as round_product


def divide_by_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Return real values in units of a scale, not yet rounded. The kernel multiplies by the reciprocal."""
    return x * scale.reciprocal()


def add(a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
    """Return ``a + b`` on the third grid."""
    ga, gb, gy = grids
    ra, rb = (float(grid.scale / gy.scale) for grid in (ga, gb))
    if not xnnpack.adds(np.float32(ra), np.float32(rb)):
        return tflite.add(a, b, grids, limits)
    ma, mb, shift = xnnpack.add_multipliers(ra, rb)
    # Products of 8 by 21 bits: every step is exact in float64.
    v = ((a.double() * ma + b.double() * mb + 2.0 ** (shift - 1)) * 2.0**-shift).floor_().float()
    return v.clamp_(*limits)


def mean(total: Tensor, count: int, grids: tuple[Encoded, Encoded], limits: Limits) -> Tensor:
    """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second.

    The zero points come in after the multiplication.
    """
    gx, gy = grids
    scale = (gx.scale / gy.scale) * (1 / torch.tensor(float(count), device=total.device))
    offset = gx.zero_point * count
    v = (total + offset) * scale + (gy.zero_point - offset * scale)
    return (v.round_() - gy.zero_point).clamp_(*limits)
