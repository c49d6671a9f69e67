"""Two-sample tests: whether two sets of rows are drawn from one distribution. Small p-values say that they are not.

Rows are the independent units (samples), never pixels. Each test asks for the rate of false alarms of a whole family of
descriptors: p-values of columns are multiplied by the number of columns (Bonferroni).
"""

from __future__ import annotations

import numpy as np
from scipy import stats

#: Permutations that give the mean and the variance of a statistic where the two sets do not differ.
_PERMUTATIONS = 300
_SHUFFLES = 200
#: The least variance of a column's ranks that counts, as a share of that of values that are all different.
_VARYING = 0.1
#: The share of the mean variance that is added to each direction, so that no direction of rounding errors counts.
_RIDGE = 1e-3


def joint_p(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value that rows ``[n, d]`` and ``[m, d]`` are of one distribution, by means and by each column.

    Twice the smaller of two p-values: of the means (see :func:`means_p`), and of single columns (see :func:`columns_p`), among
    which are the principal directions of both sets together, which tell correlations, and their absolute values, which tell
    spreads.
    """
    a, b = _standardized(a, b)
    if not a.shape[1]:
        return 1.0
    u, v = _whitened(a, b)
    columns = columns_p(np.column_stack([a, u, np.abs(u)]), np.column_stack([b, v, np.abs(v)]))
    return min(1.0, 2 * min(means_p(u, v), columns))


def columns_p(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of the column that differs most, times the number of columns: Kolmogorov & Smirnov's test of each.

    It is that of ``scipy.stats.ks_2samp(method="asymp")``, whose p-value falls with its statistic: the largest one is enough.
    """
    n, m = len(a), len(b)
    both = np.ascontiguousarray(np.concatenate([a, b]).T)
    order = np.argsort(both, axis=1)
    values = np.take_along_axis(both, order, 1)
    steps = np.where(order < n, 1 / n, -1 / m).cumsum(1)  # the difference of the two distribution functions
    ends = np.column_stack([values[:, 1:] != values[:, :-1], np.ones(len(both), bool)])  # of equal values the last
    return min(1.0, len(both) * float(stats.kstwo.sf(np.abs(steps[ends]).max(), round(n * m / (n + m)))))


def means_p(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of the squared distance of the means of two sets of whitened rows: Hotelling's statistic.

    Its null distribution is that of permuted rows, which needs no normality; a gamma distribution of the same mean and variance
    gives its tail (the approximation of Gretton et al. 2007, "A kernel statistical test of independence", section 3).
    """
    rows, n = np.concatenate([a, b]), len(a)
    rows = rows - rows.mean(0)
    random = np.random.default_rng(0)
    null = [_distance(rows[random.choice(len(rows), n, replace=False)], n) for _ in range(_PERMUTATIONS)]
    return tail_p(_distance(rows[:n], n), np.array(null))


def tail_p(value: float, null: np.ndarray) -> float:
    """Return how often a positive statistic is at least a value, by a gamma distribution of the null's mean and variance."""
    mean, variance = null.mean(), null.var(ddof=1)
    return float(stats.gamma.sf(value, mean**2 / variance, scale=variance / mean)) if variance > 0 else 1.0


def independence_p(x: np.ndarray) -> float:
    """Return the p-value that the columns of ``[n, d]`` are independent: their squared correlations against shuffled columns'.

    Correlations are those of ranks (Spearman), so that a few large values do not decide; columns that hold one value but for a
    few rows say nothing, since two of them correlate by chance as soon as such rows meet.
    """
    random, x = np.random.default_rng(0), stats.rankdata(x, axis=0)
    x = x[:, x.var(0) > _VARYING * len(x) ** 2 / 12]
    if x.shape[1] < 2:
        return 1.0
    null = [squared_correlations(random.permuted(x, axis=0)) for _ in range(_SHUFFLES)]
    return tail_p(squared_correlations(x), np.array(null))


def squared_correlations(x: np.ndarray) -> float:
    """Return the mean squared correlation of two columns of ``[n, d]``; a constant column has none with any other."""
    x = x - x.mean(0)
    std = x.std(0)
    scaled = x / np.where(std > 0, std, 1)
    found = scaled.T @ scaled / len(x)
    d = len(found)
    return float(((found**2).sum() - (np.diag(found) ** 2).sum()) / (d * (d - 1)))


def squared_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return Hotelling's statistic of two sets of rows."""
    a, b = _whitened(*_standardized(a, b))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum())


def _distance(chosen: np.ndarray, n: int) -> float:
    """Return the squared distance from zero, the mean of all rows, of the mean of some; times their number."""
    return float(n * (chosen.mean(0) ** 2).sum())


def _standardized(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets by the mean and deviation of all rows, without the columns that are constant."""
    both = np.concatenate([a, b])
    mean, std = both.mean(0), both.std(0)
    kept = std > 1e-9 * (1 + np.abs(mean))
    return (a[:, kept] - mean[kept]) / std[kept], (b[:, kept] - mean[kept]) / std[kept]


def _whitened(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return standardized rows along the principal directions of all of them, each of variance one."""
    both = np.concatenate([a, b])
    values, directions = np.linalg.eigh(np.atleast_2d(np.cov(both.T)))
    turn = directions / np.sqrt(np.maximum(values, 0) + _RIDGE)
    return a @ turn, b @ turn
