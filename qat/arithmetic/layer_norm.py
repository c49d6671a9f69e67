"""Norms on the integer grid, in NumPy: exact sums of integers, and float32 operators that IEEE 754 rounds.

A runtime's own LayerNorm adds float32 numbers in an order of its own, so that two of them differ in the last bit, and the integer
after it in one of 10,000. Every operator here gives the same bits wherever it runs: sums of integers in any order, and single
additions, multiplications, divisions and square roots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .encoding import Encoding
from .grid import EXACT_IN_FLOAT, f32
from .kernels import KERNELS

#: The least mean square whose root a float RMSNorm takes when it is differentiated: the root of zero has no gradient.
SMALLEST_SQUARE = 1e-36


def smallest_square(size: int) -> float:
    """Return the same on the integer grid, for rows of ``size`` integers: half the mean square of a row that is not zero.

    A row of zeros stands for values below half a step, and has the gradient of these.
    """
    return 0.5 / size


def layer_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float, ex: Encoding, ey: Encoding, kernels: str,
    uncentered: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return ``gamma (x - mean) / sqrt(variance + epsilon) + beta`` over the last axis, on ``ey``'s grid.

    An ``uncentered`` one is ``gamma x / sqrt(variance + epsilon) + beta``: Keras' LayerNormalization with ``rms_scaling``.
    """
    y, deviation = _normalized(np.asarray(x, np.int64), epsilon, ex)
    y = (np.asarray(x, f32) if uncentered else y) / deviation
    return KERNELS[kernels].quantize(y * np.asarray(gamma, f32) + np.asarray(beta, f32), ey)


def group_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float, groups: int, axis: int, ex: Encoding, ey: Encoding,
    kernels: str,
) -> np.ndarray:  # fmt: skip
    """Return the same over all axes but the batch, in ``groups`` of the channels, which lie along ``axis``.

    Wu and He 2018, "Group Normalization"; with a group for each channel it is the InstanceNorm of Ulyanov et al. 2016.
    """
    first = np.moveaxis(np.asarray(x, np.int64), axis, 1)
    y, deviation = _normalized(first.reshape(len(first), groups, -1), epsilon, ex)
    y = np.moveaxis((y / deviation).reshape(first.shape), 1, axis)
    along = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    scaled = y * np.asarray(gamma, f32).reshape(along) + np.asarray(beta, f32).reshape(along)
    return KERNELS[kernels].quantize(scaled, ey)


def _normalized(x: np.ndarray, epsilon: float, ex: Encoding) -> tuple[np.ndarray, np.ndarray]:
    """Return ``x - mean`` and ``sqrt(variance + epsilon)`` over the last axis.

    The integers are stored ones, ``x + z_x``; ``c`` is the integer nearest to their mean, from which squares are small enough.
    What the mean is off it is exact: the difference of two numbers so close has no more digits than they have.
    """
    q = x + ex.zero_point
    n = f32(q.shape[-1])
    mean = q.sum(-1, keepdims=True).astype(f32) / n
    c = np.rint(mean)
    rest = mean - c
    squares = np.square(q - c.astype(np.int64)).sum(-1, keepdims=True).astype(f32)
    variance = squares / n - rest * rest
    return q.astype(f32) - mean, np.sqrt(variance + scaled_epsilon(epsilon, float(ex.scale)))


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


def summed_in_float(sizes: Sequence[int], greatest: int) -> int:
    """Return how many axes, from the last one on, float32 can sum over so that every sum of integers is exact.

    Args:
        sizes: of the axes that are summed over.
        greatest: the greatest magnitude of an integer.
    """
    count, terms = 0, 1
    for size in reversed(sizes):
        terms *= size
        if terms * greatest >= EXACT_IN_FLOAT:
            break
        count += 1
    return count


def centred_square(encoding: Encoding) -> float:
    """Return what the mean of the squares of integers less the integer nearest to their mean cannot pass.

    The variance of numbers is at most the square of half their span; that integer is half a unit off the mean at most.
    """
    return ((encoding.qmax - encoding.qmin) ** 2 + 1) / 4


def type_of_sums(terms: int, greatest: float) -> str:
    """Return the type of integers that holds the sum of as many integers of a magnitude."""
    return "int32" if terms * greatest < 2**31 else "int64"


def scaled_least(least: float, scale: float) -> np.float32:
    """Return ``least / scale``, the least root of integers; it is above 0, so that 0 is divided by a number."""
    return f32(max(least / scale, 1e-30))


def scaled_epsilon(epsilon: float, scale: float) -> np.float32:
    """Return ``epsilon / scale^2``, which is added to the variance of integers; it stays finite where the scale is near zero."""
    return f32(min(epsilon / scale**2, float(np.finfo(f32).max)))
