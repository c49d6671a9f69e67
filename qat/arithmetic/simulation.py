"""Simulated quantization: what a part of a model would compute on the grid, in real numbers that have gradients.

A value becomes ``clip(round(y / s), lo, hi) s``. By the straight-through estimator its slope is 1 within the limits and 0 beyond,
and that of the scale is ``q - y / s`` within and ``q`` beyond (Esser et al. 2020, "Learned Step Size Quantization", section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Simulation:
    """How a part of a model is quantized.

    Attributes:
        grids: scale and limits, zero point subtracted, of each tensor on the grid.
        weights: the weights in use, by the name of the parameter, in its layout; others are the model's own.
        group_of: the name of the scale that a tensor shares; gradients of scales are given by it.
        drop: the share of each tensor's numbers that are left unrounded, drawn anew by :meth:`dropped` for each tensor.
        seed: of the draw.
    """

    grids: Mapping[str, tuple[float, float, float]]
    weights: Mapping[str, np.ndarray]
    group_of: Mapping[str, str]
    drop: float = 0.0
    seed: int = 0

    def dropped(self, shape: Sequence[int], number: int) -> np.ndarray:
        """Return which numbers of a tensor, the pass's ``number``-th on the grid, are left unrounded."""
        return np.asarray(np.random.default_rng((self.seed, number)).random(tuple(shape), np.float32) < self.drop)


def simulated(y: np.ndarray, scale: float, lo: float, hi: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a value after simulated quantization, its slope, and that of the scale: the reference of both frameworks."""
    v = y / scale
    q = np.clip(np.rint(v), lo, hi)
    within = (np.rint(v) >= lo) & (np.rint(v) <= hi)
    return q * scale, within.astype(y.dtype), np.where(within, q - v, q)
