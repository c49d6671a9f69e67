"""The two-sample tests: few false alarms on rows of one distribution, and what they tell apart."""

import numpy as np
import pytest
from scipy import stats

from qat.analysis.checks.two_sample import columns_p, independence_p, joint_p, means_p, squared_distance


def rows(kind, n, random):
    if kind == "normal":
        return random.normal(size=(n, 12))
    if kind == "skewed":
        return random.exponential(size=(n, 12)) ** 2
    return random.integers(0, 3, size=(n, 12)).astype(float)


@pytest.mark.parametrize("kind", ["normal", "skewed", "ties"])
def test_rows_of_one_distribution_are_seldom_told_apart(kind):
    random = np.random.default_rng(0)
    found = np.array([joint_p(rows(kind, 60, random), rows(kind, 240, random)) for _ in range(30)])
    assert (found < 1e-3).sum() == 0  # by chance once in 33 such tests
    assert (found < 0.1).sum() <= 11  # three are expected; more than 11 once in 20,000


@pytest.mark.parametrize(
    "change",
    [
        lambda x, r: x + 0.5,
        lambda x, r: 1.6 * x,
        lambda x, r: x * r.choice([0.3, 2.0], (len(x), 1)),
        lambda x, r: x * np.where(np.arange(12) == 3, 2.5, 1),
    ],
    ids=["mean", "scale", "spread", "one column"],
)
def test_differences_are_found(change):
    random = np.random.default_rng(1)
    assert joint_p(change(rows("normal", 300, random), random), rows("normal", 900, random)) < 1e-4


def test_a_correlation_is_a_difference():
    random = np.random.default_rng(2)
    a, b = random.normal(size=(300, 6)), random.normal(size=(900, 6))
    b[:, 1] = 0.95 * b[:, 0] + np.sqrt(1 - 0.95**2) * b[:, 1]
    assert joint_p(a, b) < 1e-4


@pytest.mark.parametrize("kind", ["normal", "skewed", "ties"])
def test_the_columns_are_those_of_scipy(kind):
    random = np.random.default_rng(5)
    a, b = rows(kind, 80, random) + 0.2, rows(kind, 130, random)
    expected = [stats.ks_2samp(x, y, method="asymp").pvalue for x, y in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(columns_p(a, b), min(1, 12 * min(expected)), rtol=1e-9)


def test_constant_columns_say_nothing():
    assert joint_p(np.ones((60, 3)), np.ones((80, 3))) == 1.0


def test_the_tail_of_the_permuted_means_is_that_of_chi_squared():
    """Of normal rows the statistic is nearly chi-squared; the two p-values agree within a factor of three down to 1e-5."""
    random = np.random.default_rng(3)
    a, b = random.normal(size=(400, 8)), random.normal(size=(1200, 8))
    for shift in (0.06, 0.1, 0.12):
        step = a - a.mean(0) + b.mean(0) + shift
        exact = stats.chi2.sf(300 * ((step.mean(0) - b.mean(0)) ** 2).sum(), 8)
        assert 1e-5 < exact < 0.5
        assert 1 / 3 < means_p(step, b) / exact < 3


def test_the_distance_does_not_depend_on_the_units():
    random = np.random.default_rng(4)
    a, b = random.normal([0, 1, 0], size=(100, 3)), random.normal(size=(200, 3))
    units = np.array([1e-3, 1, 1e4])
    np.testing.assert_allclose(squared_distance(a, b), squared_distance(a * units + 7, b * units + 7), rtol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "skewed", "ties"])
def test_independent_columns_are_seldom_called_dependent(kind):
    random = np.random.default_rng(6)
    found = np.array([independence_p(rows(kind, 120, random)) for _ in range(30)])
    assert (found < 1e-3).sum() == 0
    assert (found < 0.1).sum() <= 11
    x = rows(kind, 120, random)
    x[:, 4] = x[:, 2] + x[:, 4] / 5
    assert independence_p(x) < 1e-4
