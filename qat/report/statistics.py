"""The statistics of a comparison. Outputs are ``[n, classes]`` logits or probabilities."""

from __future__ import annotations

import numpy as np
from scipy import special, stats


def top1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the top-1 accuracy in percent."""
    return float(100.0 * (outputs.argmax(-1) == labels).mean())


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of samples for which both choose the same class, in percent."""
    return float(100.0 * (a.argmax(-1) == b.argmax(-1)).mean())


def mcnemar(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> float:
    """Return the exact two-sided p-value that both are right equally often (McNemar 1947, on the discordant pairs)."""
    return mcnemar_of_hits(a.argmax(-1) == labels, b.argmax(-1) == labels)


def mcnemar_of_hits(a: np.ndarray, b: np.ndarray) -> float:
    """Return :func:`mcnemar`'s p-value where ``a`` and ``b`` say of each sample whether it was answered rightly."""
    only_a, only_b = _discordant(a, b)
    return 1.0 if only_a + only_b == 0 else float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def difference_interval(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of ``a``'s top-1 accuracy less ``b``'s, in percentage points (Agresti & Min 2005)."""
    # Half a sample more in each of the four cells: an interval of some width where no pair disagrees.
    only_a, only_b = (count + 0.5 for count in _discordant(a.argmax(-1) == labels, b.argmax(-1) == labels))
    n = len(labels) + 2
    difference = (only_a - only_b) / n
    half = float(stats.norm.ppf(0.975)) * float(np.sqrt(only_a + only_b - n * difference**2)) / n
    return 100 * (difference - half), 100 * (difference + half)


def _discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """Return how many samples only ``a`` answered rightly, and only ``b``."""
    return int((a & ~b).sum()), int((b & ~a).sum())


def confidence_drift(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean change of the largest softmax probability."""
    return float(np.abs(special.softmax(a, -1).max(-1) - special.softmax(b, -1).max(-1)).mean())


def sqnr(reference: np.ndarray, outputs: np.ndarray) -> float:
    """Return the signal-to-quantization-noise ratio in dB; infinite where both are equal."""
    noise = float(((reference - outputs).astype(np.float64) ** 2).mean())
    signal = float((reference.astype(np.float64) ** 2).mean())
    return float("inf") if noise == 0 else 10.0 * float(np.log10(signal / noise))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a percentage of ``n``."""
    interval = stats.binomtest(round(share / 100 * n), n).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)
