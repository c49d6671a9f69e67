"""Range estimators: how calibration finds the range of an activation. Streaming; memory does not grow with the samples."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np

from qat.arithmetic.encoding import from_range

_BINS = 2048

#: The estimators whose ranges training may move towards the batches' extremes; the others chose to leave some values out.
FOLLOWED = ("minmax", "ema")


class RangeMode(Enum):
    """How the range of an activation is treated while its model runs.

    Attributes:
        CALIBRATING: the model computes in float; the range estimator, where there is one, is shown each tensor.
        TRACKING: the model computes on the grid; each training pass moves the range towards the extremes of its batch.
        FROZEN: the model computes on the grid; the range stays as it is.
    """

    CALIBRATING = "calibrating"
    TRACKING = "tracking"
    FROZEN = "frozen"


class RangeEstimator(Protocol):
    """Sees the batches of one tensor, then tells its range."""

    def update(self, x: np.ndarray) -> None:
        """Take one batch into account."""

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)`` of what was seen."""


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf

    def update(self, x: np.ndarray) -> None:
        """Take one batch into account."""
        self._low, self._high = min(self._low, float(x.min())), max(self._high, float(x.max()))

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)``."""
        return self._low, self._high


class MovingAverage:
    """Exponential moving averages of the batches' extremes (Krishnamoorthi 2018, section 3.1): outliers fade."""

    def __init__(self, momentum: float = 0.1) -> None:
        self._momentum = momentum
        self._range: tuple[float, float] | None = None

    def update(self, x: np.ndarray) -> None:
        """Take one batch into account."""
        low, high = float(x.min()), float(x.max())
        if self._range is not None:
            m, (l0, h0) = self._momentum, self._range
            low, high = l0 + m * (low - l0), h0 + m * (high - h0)
        self._range = (low, high)

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)``."""
        return self._range or (np.inf, -np.inf)


class Histogram:
    """A histogram over ``[-bound, bound]`` whose bound doubles, bins merged in pairs, when a value falls outside."""

    def __init__(self, bins: int = _BINS) -> None:
        self._bound = 0.0
        self._counts = np.zeros(bins, np.int64)
        self._low, self._high = np.inf, -np.inf

    def update(self, x: np.ndarray) -> None:
        """Take one batch into account."""
        self._reach(x)
        if self._bound > 0.0:
            self._counts += np.histogram(x, len(self._counts), (-self._bound, self._bound))[0]

    def _reach(self, x: np.ndarray) -> None:
        """Note the extremes of a batch, and widen the bins so that they hold it."""
        low, high = float(x.min()), float(x.max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        peak = max(abs(low), abs(high))
        self._bound = self._bound or peak
        while peak > self._bound:
            merged = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.pad(merged, len(merged) // 2)
            self._bound *= 2

    def bins(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the bins' centres and counts."""
        edges = np.linspace(-self._bound, self._bound, len(self._counts) + 1)
        return (edges[:-1] + edges[1:]) / 2, self._counts

    def range(self) -> tuple[float, float]:
        """Return the extremes seen."""
        return self._low, self._high


class Percentile(Histogram):
    """The range that leaves out the given share of the values at each end (Wu et al. 2020, section 5.2)."""

    def __init__(self, outside: float = 1e-5) -> None:
        super().__init__()
        self._outside = outside

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)``."""
        low, high = super().range()
        centres, counts = self.bins()
        share = np.cumsum(counts) / max(int(counts.sum()), 1)
        if not counts.any():
            return low, high
        first = int(np.searchsorted(share, self._outside, side="right"))
        last = int(np.searchsorted(share, 1.0 - self._outside))
        half = self._bound / len(counts)
        return max(low, float(centres[first]) - half), min(high, float(centres[min(last, len(counts) - 1)]) + half)


class MeanSquaredError(Histogram):
    """The range, out of shrunken copies of the full one, with the lowest squared quantization error.

    Source: Nagel et al. 2021, "A White Paper on Neural Network Quantization", section 3.1 (MSE, grid search).
    """

    def __init__(self, qmin: int, qmax: int, symmetric: bool) -> None:
        super().__init__()
        self._grid = (qmin, qmax, symmetric)

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)``."""
        low, high = super().range()
        centres, counts = self.bins()
        if not counts.any():
            return low, high
        used = counts > 0
        centres, counts = centres[used], counts[used]
        best, chosen = np.inf, (low, high)
        for share in np.linspace(1.0, 0.3, 71):
            e = from_range(low * share, high * share, *self._grid)
            q = np.clip(np.rint(centres / e.scale), e.lo, e.hi) * e.scale
            error = float(((q - centres) ** 2 * counts).sum())
            if error < best:
                best, chosen = error, (low * share, high * share)
        return chosen


class Importance(Histogram):
    """The range with the lowest squared quantization error, each number's weighted by how much it matters for the outputs.

    Each end is a share of the extreme, found in turn, so that a tail that no reader tells apart costs the other end nothing.
    Numbers are weighted by the squares of the outputs' gradients (:mod:`qat.calibration.weighing`), which a calibration shows
    by :meth:`weigh`; without these, and for more than 8 bits, the range is the extremes. Source: Yuan et al. 2022, "PTQ4ViT:
    Post-Training Quantization for Vision Transformers with Twin Uniform Quantization", section 3.3 (Hessian guided metric).
    """

    _SHARES: tuple[float, ...] = tuple(np.geomspace(1.0, 0.03, 64).tolist())
    _ROUNDS = 3

    def __init__(self, qmin: int, qmax: int, symmetric: bool) -> None:
        super().__init__(bins=8192)
        self._counts = self._counts.astype(np.float64)
        self._grid = (qmin, qmax, symmetric)

    def update(self, x: np.ndarray) -> None:
        """Take one batch's extremes into account."""
        self._reach(x)

    def weigh(self, x: np.ndarray, weight: np.ndarray) -> None:
        """Take numbers into account that :meth:`update` has seen, each with its weight."""
        if self._bound > 0.0:
            bins = len(self._counts)
            places = ((x.reshape(-1) / np.float32(self._bound) + 1) * np.float32(bins / 2)).astype(np.int64)
            self._counts += np.bincount(np.clip(places, 0, bins - 1), weight.reshape(-1), bins)

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)``."""
        ends = super().range()
        qmin, qmax, symmetric = self._grid
        centres, weights = self.bins()
        used = weights > 0
        if not used.any() or qmax - qmin > 255:
            return ends
        centres, weights = centres[used], weights[used]

        def error(low: float, high: float) -> float:
            e = from_range(low, high, *self._grid)
            off = np.clip(np.rint(centres / e.scale), e.lo, e.hi) * e.scale - centres
            return float((off * off * weights).sum())

        best = error(*ends), ends
        for _ in range(self._ROUNDS):
            before = best
            for moved in ((True, True),) if symmetric else ((True, False), (False, True)):
                tried = [tuple(e * s if m else now for e, m, now in zip(ends, moved, best[1], strict=True)) for s in self._SHARES]
                best = min([best, *((error(low, high), (low, high)) for low, high in tried)], key=lambda found: found[0])
            if best == before:
                break
        return best[1]


class Entropy(Histogram):
    """The range whose integers tell the most of the values: the lowest Kullback-Leibler divergence of both distributions.

    Source: Migacz 2017, "8-bit Inference with TensorRT" (GTC 2017, slides 37 to 39), which clips magnitudes; a sign of its own
    is kept here, so that a range of positive values stays one.
    """

    def __init__(self, qmin: int, qmax: int, symmetric: bool) -> None:
        super().__init__(bins=8192)
        self._grid = (qmin, qmax, symmetric)

    def range(self) -> tuple[float, float]:
        """Return ``(low, high)``."""
        low, high = super().range()
        _, counts = self.bins()
        half = len(counts) // 2
        magnitudes = counts[half:] + counts[:half][::-1]
        # The zeros of a ReLU would outweigh all else; NVIDIA's pytorch-quantization (calib/histogram.py) leaves them out, too.
        magnitudes[0] = magnitudes[1]
        if not magnitudes.any():
            return low, high
        qmin, qmax, symmetric = self._grid
        levels = qmax - qmin + 1 if low >= 0 and not symmetric else (qmax - qmin + 2) // 2
        threshold = self._bound / half * _fewest_lost(magnitudes[: int(np.flatnonzero(magnitudes)[-1]) + 1], levels)
        return max(low, -threshold), min(high, threshold)


def _fewest_lost(counts: np.ndarray, levels: int) -> int:
    """Return how many bins to keep: the number whose ``levels`` merged ones lose the least of the distribution."""
    best, chosen = np.inf, len(counts)
    if len(counts) <= levels:
        return chosen
    for end in np.unique(np.linspace(levels, len(counts), 256).astype(int)):
        kept = counts[:end].astype(np.float64)
        clipped = kept.copy()
        clipped[-1] += counts[end:].sum()
        level = np.arange(end) * levels // end
        if not kept.any():
            continue
        used = kept > 0
        mass, places = np.bincount(level, kept, levels), np.bincount(level, used, levels)
        merged = np.where(used, (mass / np.maximum(places, 1))[level], 0.0)
        p, q = clipped / clipped.sum(), merged / merged.sum()
        seen = p > 0
        if not (q[seen] > 0).all():  # a bin that holds nothing but what was clipped: infinitely far
            continue
        divergence = float((p[seen] * np.log(p[seen] / q[seen])).sum())
        if divergence < best:
            best, chosen = divergence, int(end)
    return chosen


def weight_step(weight: np.ndarray, qmax: int, axis: int | None) -> np.ndarray:
    """Return the symmetric scale(s) of a weight with the lowest squared error, out of shrunken copies of the full range.

    One for each entry of ``axis``, float32 of shape (channels,), or one of shape (1,) where ``axis`` is None. Source: as
    :class:`MeanSquaredError`.
    """
    rows = np.asarray(weight, np.float64)
    rows = rows.reshape(1, -1) if axis is None else np.moveaxis(rows, axis, 0).reshape(rows.shape[axis], -1)
    full = np.maximum(np.abs(rows).max(1, keepdims=True) / qmax, 1e-8)
    best, chosen = np.full(len(rows), np.inf), full[:, 0].copy()
    for share in np.linspace(1.0, 0.3, 71):
        step = full * share
        error = ((np.clip(np.rint(rows / step), -qmax, qmax) * step - rows) ** 2).sum(1)
        better = error < best
        best[better], chosen[better] = error[better], step[better, 0]
    return chosen.astype(np.float32)


def make_estimator(name: str, qmin: int, qmax: int, symmetric: bool) -> RangeEstimator:
    """Return the estimator of that name: ``minmax``, ``ema``, ``percentile``, ``mse``, ``importance`` or ``entropy``."""
    if name == "percentile":
        return Percentile()
    if name == "entropy":
        return Entropy(qmin, qmax, symmetric)
    if name == "mse":
        return MeanSquaredError(qmin, qmax, symmetric)
    if name == "importance":
        return Importance(qmin, qmax, symmetric)
    return MovingAverage() if name == "ema" else MinMax()


class Spans:
    """The least and the greatest value of each tensor of one scale."""

    def __init__(self) -> None:
        self.ends: dict[str, tuple[float, float]] = {}

    def see(self, tensor: str, values: np.ndarray) -> None:
        """Take note of values of a tensor."""
        if values.size:
            low, high = self.ends.get(tensor, (np.inf, -np.inf))
            self.ends[tensor] = min(low, float(values.min())), max(high, float(values.max()))
