"""Streaming statistics: what is kept of samples that pass by once. Each is tested against NumPy on all samples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

#: More samples than these are not compared with each other: their hashes would take memory without end.
_MOST_HASHED = 100_000


@dataclass
class Moments:
    """Number, mean, and sum of squared deviations of the values of each channel, their extremes, and how many are not finite.

    Two parts are joined by the formulas of Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979). Values that are not finite count for nothing else.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    not_finite: int = 0

    @classmethod
    def of(cls, x: np.ndarray) -> Moments:
        """Return the moments of values ``[channels, n]``."""
        if x.shape[1] and np.isfinite(x).all():
            low, high = x.min(1).astype(np.float64), x.max(1).astype(np.float64)
            x = x.astype(np.float64)
            mean = x.mean(1)
            x -= mean[:, None]
            return cls(np.full(len(x), x.shape[1]), mean, np.einsum("ij,ij->i", x, x), low, high)
        x = x.astype(np.float64)
        finite = np.isfinite(x)
        count = finite.sum(1)
        mean = np.where(finite, x, 0).sum(1) / np.maximum(count, 1)
        squares = np.where(finite, x - mean[:, None], 0)
        low, high = np.where(finite, x, np.inf).min(1, initial=np.inf), np.where(finite, x, -np.inf).max(1, initial=-np.inf)
        return cls(count, mean, (squares**2).sum(1), low, high, int(x.size - count.sum()))

    def add(self, other: Moments) -> None:
        """Add the moments of further values."""
        if self.mean.shape != other.mean.shape:  # a free number of channels: they are one from here on
            self._pool()
            other._pool()
        count = self.count + other.count
        step = other.mean - self.mean
        weight = other.count / np.maximum(count, 1)
        self.mean = self.mean + weight * step
        self.squares = self.squares + other.squares + step**2 * weight * self.count
        self.count, self.not_finite = count, self.not_finite + other.not_finite
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    def _pool(self) -> None:
        total = self.count.sum(keepdims=True)
        mean = (self.count * self.mean).sum(keepdims=True) / np.maximum(total, 1)
        self.squares = (self.squares + self.count * (self.mean - mean) ** 2).sum(keepdims=True)
        self.count, self.mean = total, mean
        self.low, self.high = self.low.min(keepdims=True), self.high.max(keepdims=True)

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of each channel."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


@dataclass
class Records:
    """The samples that widened a range, in their order: few, about ``log(n)`` at either end of samples in no order.

    Attributes:
        count: the samples that passed by.
        found: the number of a sample, and the range up to and with it.
    """

    count: int = 0
    found: list[tuple[int, float, float]] = field(default_factory=list)

    def add(self, low: np.ndarray, high: np.ndarray) -> None:
        """Add samples by their lowest and highest values; those that are not finite widen nothing."""
        before = self.found[-1][1:] if self.found else (np.inf, -np.inf)
        low = np.minimum.accumulate(np.concatenate([before[:1], np.where(np.isfinite(low), low, np.inf)]))
        high = np.maximum.accumulate(np.concatenate([before[1:], np.where(np.isfinite(high), high, -np.inf)]))
        for i in np.flatnonzero((low[1:] < low[:-1]) | (high[1:] > high[:-1])):
            self.found.append((self.count + int(i), float(low[i + 1]), float(high[i + 1])))
        self.count += len(low) - 1

    def width(self, count: int) -> float:
        """Return the width of the range of the first ``count`` samples."""
        return next((high - low for index, low, high in reversed(self.found) if index < count), 0.0)

    def growth(self) -> float:
        """Return the share by which the last quarter of the samples widened the range; infinite where it was none before."""
        before, after = self.width(self.count - self.count // 4), self.width(self.count)
        return after / before - 1 if before > 0 else (np.inf if after > 0 else 0.0)


@dataclass
class Distinct:
    """How many samples are equal to an earlier one, by hashes of 8 bytes of the first 100,000."""

    looked_at: int = 0
    repeated: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """Add the samples of a batch: an array for each input."""
        for parts in zip(*arrays, strict=True):
            if self.looked_at == _MOST_HASHED:
                return
            content = blake2b(digest_size=8)
            for part in parts:
                content.update(np.ascontiguousarray(part).tobytes())
            digest = content.digest()
            self.repeated += digest in self._seen
            self._seen.add(digest)
            self.looked_at += 1

    @property
    def share(self) -> float:
        """The share of repeated samples, 0 to 1."""
        return self.repeated / max(self.looked_at, 1)


class Reservoir:
    """A random part of fixed size of what passes by; each has the same chance (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._size, self._random = size, np.random.default_rng(seed)
        self.kept: list[Any] = []
        self.count = 0

    def add(self, item: Any) -> None:
        """Offer an item."""
        place = self.count if self.count < self._size else int(self._random.integers(self.count + 1))
        self.count += 1
        if place < self._size:
            self.kept[place : place + 1] = [item]
