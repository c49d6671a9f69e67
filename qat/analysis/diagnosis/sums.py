"""Sums over batches: what is known of a tensor without holding its values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .measured import ValueFacts
from .network import Grid

#: Values of a tensor that are kept of each batch, and in all, for its percentiles.
_KEPT, _MOST = 4096, 1 << 17
#: The variance of a channel that hardly varies, as a share of the channels' median: no grid need tell its values apart.
_HARDLY = 0.01


def ratio_in_db(signal: float, noise: float) -> float:
    """Return a signal-to-noise ratio; infinite without noise."""
    if noise <= 0:
        return float("inf")
    return 10 * float(np.log10(max(signal, 1e-300) / noise))


@dataclass
class Noise:
    """The energy of a reference, and of the difference from it."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Add a batch."""
        real = reference.astype(np.float64)
        self.signal += float(np.square(real).sum())
        self.noise += float(np.square(real - other).sum())

    @property
    def sqnr(self) -> float:
        """The ratio of both, in dB."""
        return ratio_in_db(self.signal, self.noise)


@dataclass
class Spread:
    """The noise of an output against its spread over the samples: what all samples have in common tells nothing apart."""

    count: int = 0
    noise: float = 0.0
    sums: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Add a batch."""
        rows = reference.astype(np.float64).reshape(len(reference), -1)
        found = np.stack([rows.sum(0), np.square(rows).sum(0)])
        self.sums = found if not self.count else self.sums + found
        self.count += len(rows)
        self.noise += float(np.square(rows - other.reshape(rows.shape)).sum())

    @property
    def sqnr(self) -> float:
        """The ratio of both, in dB."""
        mean, square = self.sums / max(self.count, 1)
        return ratio_in_db(float(np.maximum(square - mean**2, 0).sum()) * self.count, self.noise)


class Values:
    """The values of a float tensor, against a grid."""

    def __init__(self, grid: Grid | None, axis: int) -> None:
        self._grid, self._axis = grid, axis
        self._low, self._high = np.inf, -np.inf
        self._count = 0
        self._clipped, self._clip = 0, Noise()
        self._kept: list[np.ndarray] = []
        self._peaks: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Add a batch."""
        flat = values.astype(np.float64).reshape(-1)
        self._low, self._high = min(self._low, flat.min()), max(self._high, flat.max())
        self._count += flat.size
        if self._grid is not None:
            low, high = self._grid.range
            step = float(np.max(self._grid.scale))
            self._clipped += int(((flat < low - step / 2) | (flat > high + step / 2)).sum())
            self._clip.add(flat, np.clip(flat, low, high))
        rows = np.moveaxis(values, self._axis, -1).reshape(-1, values.shape[self._axis])
        if sum(row.size for row in self._kept) < _MOST:
            self._kept.append(rows[:: max(flat.size // _KEPT, 1)])
        peaks = np.abs(rows).max(0)
        self._peaks = peaks if self._peaks is None else np.maximum(self._peaks, peaks)

    def facts(self) -> ValueFacts:
        """Return what the sums say."""
        kept = np.concatenate(self._kept).astype(np.float64)
        low, high = np.quantile(kept, (0.001, 0.999))
        # Of the median channel, without its outliers: those few values would hide that the others are lost.
        variance = float(np.median(np.clip(kept, low, high).var(0)))
        grid = self._grid
        rounding = float("inf") if grid is None else ratio_in_db(variance, float(np.max(grid.scale)) ** 2 / 12)
        peaks = np.ones(1) if self._peaks is None else self._peaks
        middle = float(np.median(peaks))
        return ValueFacts(
            low=float(self._low), high=float(self._high), typical=(float(low), float(high)),
            range=None if grid is None else grid.range, clipped=self._clipped / self._count, clip_sqnr=self._clip.sqnr,
            rounding_sqnr=rounding, channel_ratio=float(peaks.max()) / middle if middle > 0 else float("inf"),
        )  # fmt: skip


@dataclass
class Channels:
    """Both files' values of one step on the same inputs, channel by channel."""

    axis: int
    count: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros((5, 0)))

    def add(self, real: np.ndarray, quantized: np.ndarray) -> None:
        """Add a batch."""
        a, b = (np.moveaxis(x.astype(np.float64), self.axis, 0).reshape(x.shape[self.axis], -1) for x in (real, quantized))
        found = np.stack([a.sum(1), b.sum(1), (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)])
        self.sums = found if not self.count else self.sums + found
        self.count += a.shape[1]

    def compared(self) -> tuple[int, float, float]:
        """Return how many channels are constant in the second file alone, and the others' median correlation and gain."""
        a, b, aa, bb, ab = self.sums / max(self.count, 1)
        of_a, of_b, of_both = aa - a * a, bb - b * b, ab - a * b
        usual = float(np.median(of_a[of_a > 0])) if (of_a > 0).any() else 0.0
        varies = of_a > max(_HARDLY * usual, 1e-30)
        dead = varies & (of_b <= 1e-12 * of_a)
        alive = varies & ~dead
        if not alive.any():
            return int(dead.sum()), 1.0, 1.0
        correlation = of_both[alive] / np.sqrt(of_a[alive] * of_b[alive])
        return int(dead.sum()), float(np.median(correlation)), float(np.median(of_both[alive] / of_a[alive]))
