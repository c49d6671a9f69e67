"""Learned rounding of one layer's weight: AdaRound.

Each weight lies between two integers; which of the two is found by gradient descent on the layer's outputs over samples. A weight
is ``floor(w / s) + h(v)``, ``h`` the rectified sigmoid, and a regularizer draws ``h`` to 0 or 1 as its exponent is annealed. The
layer reads what the layers before it give on the grid, and is held against its float output, both after the activation.

Source: Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", sections 3.3 to 3.5. In NumPy: it is a
matrix product and elementwise passes, the same for every framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qat.graph.kinds import bounds

#: The rectified sigmoid ``clip(sigmoid(v) * (_TOP - _BOTTOM) + _BOTTOM, 0, 1)``, equation 23.
_TOP, _BOTTOM = 1.1, -0.1
#: The exponent of the regularizer, from the first to the second, after a share of the steps without it.
_EXPONENTS, _WARM_UP = (20.0, 2.0), 0.2
_RATE, _BATCH = 1e-2, 512
#: Adam's decay rates, and what its divisor is no smaller than.
_MOMENTUM, _VARIANCE, _TINY = 0.9, 0.999, 1e-8
#: A quotient this near an integer is that integer: of such weights, the largest among them, nothing is left to choose.
_WHOLE = 1e-4


@dataclass(frozen=True)
class Problem:
    """A layer's inputs and what it should make of them; ``[groups, ...]`` as weights of :class:`qat.calibration.layerwise.Layer`.

    Attributes:
        inputs: ``[rows, groups, inputs * taps]``, real values as they come off the grid.
        targets: ``[groups, rows, outputs]``, the float layer's outputs after the activation.
        bias: ``[groups, 1, outputs]``.
        activation: the fused one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    bias: np.ndarray
    activation: str | None

    def outputs(self, weight: np.ndarray, rows: slice | np.ndarray) -> np.ndarray:
        """Return the layer's outputs for some rows, before the activation."""
        return np.matmul(self.inputs[rows].swapaxes(0, 1), weight.swapaxes(1, 2)) + self.bias

    def error(self, weight: np.ndarray) -> np.ndarray:
        """Return each channel's mean squared error, ``[groups, outputs, 1]``."""
        total = np.zeros((*weight.shape[:2], 1), np.float64)
        for start in range(0, len(self.inputs), _BATCH):
            rows = slice(start, start + _BATCH)
            off = activate(self.outputs(weight, rows), self.activation) - self.targets[:, rows]
            total[..., 0] += np.square(off, dtype=np.float64).sum(1)
        return total / len(self.inputs)


def activate(v: np.ndarray, activation: str | None) -> np.ndarray:
    """Return the fused activation of real values."""
    return v if activation is None else np.clip(v, *bounds(activation))


def learn(problem: Problem, weight: np.ndarray, scale: np.ndarray, limit: int, steps: int, pull: float, seed: int) -> np.ndarray:
    """Return the integers of a weight, in float32, each the next below or above ``weight / scale``.

    Args:
        problem: the layer's samples.
        weight: ``[groups, outputs, inputs * taps]``.
        scale: ``[groups, outputs, 1]``.
        limit: the largest magnitude of an integer.
        steps: of gradient descent.
        pull: the regularizer's weight against the error, both of which are means, the error that of rounding to the nearest.
        seed: of the samples' order.
    """
    rounding = Rounding(weight, scale, limit)
    start = problem.error(rounding.nearest * scale)
    # A channel without an error has nothing to learn; its gradient would be one of noise.
    per_error = np.where(start > 0, 1 / np.where(start > 0, start, 1), 0).astype(np.float32)
    order = _batches(len(problem.inputs), seed)
    for step in range(steps):
        rows = next(order)
        raw = problem.outputs(rounding.soft(), rows)
        off = activate(raw, problem.activation) - problem.targets[:, rows]
        for end, inside in zip(bounds(problem.activation), (np.greater, np.less), strict=True):
            if end is not None:
                off *= inside(raw, end)
        slope = np.matmul(off.swapaxes(1, 2), problem.inputs[rows].swapaxes(0, 1)) * (2 / len(rows)) * scale * per_error
        rounding.move(slope, pull, step / steps)
    return rounding.chosen()


class Rounding:
    """The rounding variables of one weight, and Adam's moments of them.

    Attributes:
        scale: of the weight.
        nearest: its integers, each to the nearest.
    """

    def __init__(self, weight: np.ndarray, scale: np.ndarray, limit: int, rate: float = _RATE) -> None:
        self.scale, self._rate = scale, rate
        quotient = np.clip(weight / scale, -limit, limit).astype(np.float32)
        self.nearest = np.rint(quotient)
        self._below = np.where(np.abs(quotient - self.nearest) < _WHOLE, self.nearest, np.floor(quotient))
        self._free = (quotient > self._below).astype(np.float32)
        self._v = -np.log((_TOP - _BOTTOM) / (np.clip(quotient - self._below, 0, 1) - _BOTTOM) - 1)  # h(v) is the fraction
        self._adam = Adam(self._v.shape)

    def soft(self) -> np.ndarray:
        """Return the weight, each number of it between its two neighbours on the grid."""
        self._soft = 1 / (1 + np.exp(-self._v))
        self._h = np.clip(self._soft * (_TOP - _BOTTOM) + _BOTTOM, 0, 1)
        return np.asarray((self._below + self._h * self._free) * self.scale)

    def move(self, slope: np.ndarray, pull: float, progress: float) -> None:
        """Take a step from where :meth:`soft` was: by the error's slope in units of the scale, and by the regularizer's."""
        h = self._h
        slope = slope.copy()
        slope += _regularizer_slope(h, progress) * (pull / self._v.shape[-1])
        slope *= (h > 0) & (h < 1)
        slope *= self._soft * (1 - self._soft) * (_TOP - _BOTTOM) * self._free
        self._v -= self._rate * self._adam.direction(slope)

    def chosen(self) -> np.ndarray:
        """Return the integers, float32."""
        return np.asarray(self._below + (self._v > 0) * self._free, np.float32)


class Adam:
    """Adam's moments of some variables (Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._moments, self._steps = np.zeros((2, *shape), np.float32), 0

    def direction(self, slope: np.ndarray) -> np.ndarray:
        """Return what to subtract from the variables, for a rate of one."""
        self._steps += 1
        self._moments[0] += (1 - _MOMENTUM) * (slope - self._moments[0])
        self._moments[1] += (1 - _VARIANCE) * (slope * slope - self._moments[1])
        mean = self._moments[0] / (1 - _MOMENTUM**self._steps)
        return np.asarray(mean / (np.sqrt(self._moments[1] / (1 - _VARIANCE**self._steps)) + _TINY))


def _regularizer_slope(h: np.ndarray, progress: float) -> np.ndarray | float:
    """Return the slope of ``1 - |2 h - 1|^beta`` (equation 24); beta falls along a cosine."""
    if progress < _WARM_UP:
        return 0.0
    first, last = _EXPONENTS
    share = (progress - _WARM_UP) / (1 - _WARM_UP)
    beta = last + (first - last) * 0.5 * (1 + np.cos(np.pi * share))
    from_middle = 2 * h - 1
    return np.asarray(-2 * beta * np.sign(from_middle) * np.abs(from_middle) ** (beta - 1))


def _batches(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield indices of rows, each once before any comes again."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(count)
        for start in range(0, max(count - _BATCH, 0) + 1, _BATCH):
            yield order[start : start + _BATCH]
