"""The statistics of a comparison. Outputs are ``[n, classes]`` logits or probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from qat.arithmetic.spread import spread
from qat.trainers.metric import Metric

#: Resamples of a bootstrap: of means, which are quick, and of metrics that are made anew for each.
_RESAMPLES, _SLOW_RESAMPLES = 1999, 499
#: Fewer values than these tell nothing about noise.
_FEWEST = 8


@dataclass(frozen=True)
class Difference:
    """The p-value that two files are equally good, and the 95 % interval of the difference of their metrics."""

    p: float
    low: float
    high: float


class Totals:
    """A metric of chosen samples, made once for each file and choice: every difference resamples the same samples."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], float] = {}
        # Each array is kept beside what is made of it, so that its id is not another's.
        self._of: dict[tuple[str, int], tuple[np.ndarray, Callable[[np.ndarray], float]]] = {}

    def of(self, metric: Metric, values: np.ndarray, chosen: np.ndarray) -> float:
        """Return the metric of a file's values at the chosen places."""
        file = metric.name, id(values)
        key = *file, hash(chosen.tobytes())
        if key not in self._known:
            if file not in self._of:
                self._of[file] = values, _of_chosen(metric, values)
            self._known[key] = self._of[file][1](chosen)
        return self._known[key]


def _of_chosen(metric: Metric, values: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the function that makes the metric of the values at chosen places."""
    if metric.drawn is None:
        return lambda chosen: metric.total(values[chosen])
    of_counts = metric.drawn(values)
    return lambda chosen: of_counts(np.bincount(chosen, minlength=len(values)))


def are_hits(values: Sequence[np.ndarray]) -> bool:
    """Whether the values of every file are of one a sample, right or wrong: 0, and 1 or 100."""
    numbers = all(v.ndim == 1 and v.dtype != object for v in values)
    return numbers and any(all(np.isin(v, (0, right)).all() for v in values) for right in (1, 100))


def difference(metric: Metric, a: np.ndarray, b: np.ndarray, totals: Totals | None = None) -> Difference | None:
    """Compare a metric's values of two files on the same samples; None where there are too few to tell.

    Hits and misses by McNemar's exact test and the interval of Agresti & Min (2005), others by a paired bootstrap: its p-value
    is twice the share of the resamples on the other side of zero (Efron & Tibshirani 1993, chapter 15). ``totals`` remembers what
    differences have in common, from call to call.
    """
    totals = totals or Totals()
    if are_hits((a, b)) and len(a) >= 1:
        unit = max(a.max(), b.max(), 1) / 100
        low, high = _interval_of_hits(a > 0, b > 0)
        return Difference(mcnemar_of_hits(a > 0, b > 0), unit * low, unit * high)
    if a.shape != b.shape or len(a) < _FEWEST:
        return None
    if a.dtype != object and np.array_equal(a, b):
        return Difference(1.0, 0.0, 0.0)
    if a.ndim == 1 and metric.is_mean:
        found = stats.bootstrap(
            (a - b,), np.mean, n_resamples=_RESAMPLES, batch=64, method="percentile", random_state=np.random.default_rng(0)
        )
    else:
        found = stats.bootstrap(
            (np.arange(len(a)),),
            lambda chosen: totals.of(metric, a, chosen) - totals.of(metric, b, chosen),
            vectorized=False,
            n_resamples=_SLOW_RESAMPLES,
            method="percentile",
            random_state=np.random.default_rng(0),
        )
    drawn = found.bootstrap_distribution
    beyond = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (1 + beyond) / (1 + len(drawn)))
    return Difference(p, float(found.confidence_interval.low), float(found.confidence_interval.high))


def top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the top-1 accuracy in percent."""
    return float(100.0 * (outputs.argmax(-1) == labels).mean())


def agreement(a: np.ndarray, b: np.ndarray, axis: int = -1) -> float:
    """Return the share of samples for which both choose the same class, in percent; ``axis`` is that of the classes."""
    return float(100.0 * (a.argmax(axis) == b.argmax(axis)).mean())


def mcnemar(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> float:
    """Return the exact two-sided p-value that both are right equally often (McNemar 1947, on the discordant pairs)."""
    return mcnemar_of_hits(a.argmax(-1) == labels, b.argmax(-1) == labels)


def mcnemar_of_hits(a: np.ndarray, b: np.ndarray) -> float:
    """Return :func:`mcnemar`'s p-value where ``a`` and ``b`` say of each sample whether it was answered rightly."""
    only_a, only_b = _discordant(a, b)
    return 1.0 if only_a + only_b == 0 else float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def difference_interval(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of ``a``'s top-1 accuracy less ``b``'s, in percentage points (Agresti & Min 2005)."""
    return _interval_of_hits(a.argmax(-1) == labels, b.argmax(-1) == labels)


def _interval_of_hits(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    # Half a sample more in each of the four cells: an interval of some width where no pair disagrees.
    only_a, only_b = (count + 0.5 for count in _discordant(a, b))
    n = len(a) + 2
    difference = (only_a - only_b) / n
    half = float(stats.norm.ppf(0.975)) * float(np.sqrt(only_a + only_b - n * difference**2)) / n
    return 100 * (difference - half), 100 * (difference + half)


def _discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Return how many samples only ``a`` answered rightly, and only ``b``."""
    return int((a & ~b).sum()), int((b & ~a).sum())


def are_probabilities(outputs: np.ndarray, axis: int = -1) -> bool:
    """Whether class scores are probabilities already: none negative, their sums one."""
    return bool(outputs.size and outputs.min() >= 0 and np.abs(outputs.sum(axis, dtype=np.float64) - 1).max() < 1e-3)


def probabilities(outputs: np.ndarray, axis: int = -1, known: bool = False) -> np.ndarray:
    """Return class scores as probabilities: their softmax, or as they are where they are known to be probabilities."""
    return outputs if known else special.softmax(outputs, axis)


def confidence_drift(outputs: np.ndarray, reference: np.ndarray, axis: int = -1) -> float:
    """Return the mean change of the largest probability; ``axis`` is that of the classes.

    Logits become probabilities by a softmax; the reference, which is exact, tells which of both the outputs are.
    """
    known = are_probabilities(reference, axis)
    largest = (probabilities(found, axis, known).max(axis) for found in (outputs, reference))
    return float(np.abs(next(largest) - next(largest)).mean())


def sqnr(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Return the signal-to-quantization-noise ratio in dB; infinite where both are equal."""
    noise = float(((reference - outputs).astype(np.float64) ** 2).mean())
    signal = float((reference.astype(np.float64) ** 2).mean())
    return float("inf") if noise == 0 else 10.0 * float(np.log10(signal / noise))


def error_percent(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Return the root mean square of the difference as a share of the reference's spread, in percent; the largest output's.

    The spread is the standard deviation; of values that hardly vary a share of their size (:mod:`qat.arithmetic.spread`).
    """
    return max(_error(a, b) for a, b in zip(outputs, reference, strict=True))


def _error(outputs: np.ndarray, reference: np.ndarray) -> float:
    off = outputs.astype(np.float64) - reference.astype(np.float64)
    return 100 * float(np.sqrt(np.square(off).mean())) / spread(reference)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a percentage of ``n``."""
    interval = stats.binomtest(round(share / 100 * n), n).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)
