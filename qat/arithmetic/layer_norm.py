"""LayerNorm and RMSNorm on the integer grid, in NumPy: exact sums of integers, and float32 operators that IEEE 754 rounds.

A runtime's own LayerNorm adds float32 numbers in an order of its own, so that two of them differ in the last bit, and the integer
after it in one of 10,000. Every operator here gives the same bits wherever it runs: sums of integers in any order, and single
additions, multiplications, divisions and square roots.
"""

from __future__ import annotations

import numpy as np

from .encoding import Encoding
from .grid import f32
from .kernels import KERNELS


def layer_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float, ex: Encoding, ey: Encoding, kernels: str
) -> np.ndarray:  # fmt: skip
    """Return ``gamma (x - mean) / sqrt(variance + epsilon) + beta`` over the last axis, on ``ey``'s grid.

    The integers are stored ones, ``x + z_x``; ``c`` is the integer nearest to their mean, from which squares are small enough.
    """
    q = np.asarray(x, np.int64) + ex.zero_point
    n = f32(q.shape[-1])
    total = q.sum(-1, keepdims=True).astype(f32)
    c = np.rint(total / n)
    d = q.astype(f32) - c
    rest = (total - c * n) / n  # of the mean
    squares = np.square(d.astype(np.int64)).sum(-1, keepdims=True).astype(f32)
    variance = squares / n - rest * rest
    y = (d - rest) / np.sqrt(variance + scaled_epsilon(epsilon, float(ex.scale)))
    return KERNELS[kernels].quantize(y * np.asarray(gamma, f32) + np.asarray(beta, f32), ey)


def rms_norm(
    x: np.ndarray, gamma: np.ndarray, epsilon: float, least: float, ex: Encoding, ey: Encoding, kernels: str
) -> np.ndarray:  # fmt: skip
    """Return ``gamma x / max(sqrt(mean(x^2) + epsilon), least)`` over the last axis, on ``ey``'s grid.

    Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"; with ``least`` the L2 norm is one too.
    """
    q, scale = np.asarray(x, np.int64), float(ex.scale)
    squares = np.square(q).sum(-1, keepdims=True).astype(f32)
    root = np.sqrt(squares / f32(q.shape[-1]) + scaled_epsilon(epsilon, scale))
    y = q.astype(f32) / np.maximum(root, scaled_least(least, scale))
    return KERNELS[kernels].quantize(y * np.asarray(gamma, f32), ey)


def scaled_least(least: float, scale: float) -> np.float32:
    """Return ``least / scale``, the least root of integers; it is above 0, so that 0 is divided by a number."""
    return f32(max(least / scale, 1e-30))


def scaled_epsilon(epsilon: float, scale: float) -> np.float32:
    """Return ``epsilon / scale^2``, which is added to the variance of integers."""
    return f32(epsilon / scale**2)
