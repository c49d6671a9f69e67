"""Simulated quantization: what a part of a model would compute on the grid, in real numbers that have gradients.

A value becomes ``clip(round(y / s), lo, hi) s``. By the straight-through estimator its slope is 1 within the limits and 0 beyond,
and that of the scale is ``q - y / s`` within and ``q`` beyond (Esser et al. 2020, "Learned Step Size Quantization", section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Simulation:
    """How a part of a model is quantized.

    Attributes:
        grids: scale and limits, zero point subtracted, of each tensor on the grid.
        weights: the weights in use, by the name of the parameter, in its layout; others are the model's own.
        group_of: the name of the scale that a tensor shares; gradients of scales are given by it.
    """

    grids: Mapping[str, tuple[float, float, float]]
    weights: Mapping[str, np.ndarray]
    group_of: Mapping[str, str]


def simulated(y: np.ndarray, scale: float, lo: float, hi: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a value after simulated quantization, its slope, and that of the scale: the reference of both frameworks."""
    v = y / scale
    q = np.clip(np.rint(v), lo, hi)
    within = (np.rint(v) >= lo) & (np.rint(v) <= hi)
    return q * scale, within.astype(y.dtype), np.where(within, q - v, q)
