"""The streaming statistics equal NumPy's on all samples at once, however the samples are cut into batches."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qat.analysis.checks.streams import Distinct, Moments, Records, Reservoir

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=8)


def parts(x, cuts):
    return [part for part in np.split(x, np.cumsum(cuts)) if len(part)]


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=VALUES), CUTS)
def test_moments(x, cuts):
    first, *others = [Moments.of(part.T) for part in parts(x, cuts)]
    for other in others:
        first.add(other)
    assert first.not_finite == (~np.isfinite(x)).sum()
    for c, column in enumerate(x.T.astype(np.float64)):
        kept = column[np.isfinite(column)]
        assert first.count[c] == len(kept)
        if len(kept):
            scale = 1 + np.abs(kept).max()
            np.testing.assert_allclose(first.mean[c], kept.mean(), rtol=1e-9, atol=1e-9 * scale)
            np.testing.assert_allclose(first.std[c], kept.std(), rtol=1e-6, atol=1e-6 * scale)
            assert (first.low[c], first.high[c]) == (kept.min(), kept.max())


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=VALUES), CUTS)
def test_records_know_the_range_of_every_beginning(x, cuts):
    records = Records()
    for part in parts(x, cuts):
        records.add(part.min(1), part.max(1))
    low = np.where(np.isfinite(x.min(1)), x.min(1), np.inf).astype(np.float64)
    high = np.where(np.isfinite(x.max(1)), x.max(1), -np.inf).astype(np.float64)
    for count in range(1, len(x) + 1):
        widest = high[:count].max() - low[:count].min()
        found = records.width(count)
        assert found == widest or (not np.isfinite(widest) and (not np.isfinite(found) or found == 0))


def test_records_of_shuffled_samples_are_few():
    x = np.random.default_rng(0).normal(size=20_000)
    records = Records()
    for part in np.split(x, 200):
        records.add(part, part)
    assert len(records.found) < 60
    assert records.growth() < 0.25
    ascending = Records()
    ascending.add(np.arange(100.0), np.arange(100.0))
    np.testing.assert_allclose(ascending.growth(), 99 / 74 - 1)


@settings(deadline=None, max_examples=60)
@given(arrays(np.int8, st.tuples(st.integers(1, 40), st.integers(1, 2)), elements=st.integers(0, 3)), CUTS)
def test_distinct(x, cuts):
    distinct = Distinct()
    for part in parts(x, cuts):
        distinct.add([part[:, :1], part])
    assert distinct.looked_at == len(x)
    assert distinct.repeated == len(x) - len(np.unique(x, axis=0))


def test_a_reservoir_keeps_each_with_the_same_chance():
    kept = np.zeros(40)
    for seed in range(1500):
        reservoir = Reservoir(10, seed)
        for i in range(40):
            reservoir.add(i)
        assert len(set(reservoir.kept)) == 10
        kept[reservoir.kept] += 1
    # Binomial(1500, 1/4): a standard deviation of 16.8.
    assert np.abs(kept - 375).max() < 5 * 16.8
