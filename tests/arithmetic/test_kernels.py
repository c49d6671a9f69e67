"""The kernels' arithmetic: properties, and the formulas against slower, obvious ones."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qat.arithmetic import accumulators, grid, mlas, tflite
from qat.arithmetic.encoding import Encoding, from_range
from qat.arithmetic.grid import f32
from qat.arithmetic.kernels import KERNELS
from qat.arithmetic.range_estimators import make_estimator

floats = st.floats(-1e4, 1e4, width=32)
scales = st.floats(2**-10, 2**4, width=32)


def integers(seed, *shape, low=-100, high=101):
    return np.random.default_rng(seed).integers(low, high, shape)


@given(floats, floats, st.sampled_from([(-128, 127), (0, 255), (-127, 127)]), st.booleans())
def test_a_range_holds_zero_exactly_and_both_its_ends(low, high, limits, symmetric):
    low, high = min(low, high), max(low, high)
    if symmetric and limits[0] == 0:
        return
    e = from_range(low, high, *limits, symmetric)
    assert e.lo <= 0 <= e.hi
    assert limits[0] <= e.zero_point <= limits[1]
    step = float(e.scale)
    for end in (low, high):
        back = float(grid.dequantize(mlas.quantize(f32([end]), e), e)[0])
        assert abs(back - end) <= step * 1.001


@given(
    st.lists(floats, min_size=1, max_size=30), scales, st.integers(-128, 127), st.sampled_from(["mlas", "xnnpack", "reference"])
)
def test_quantize_is_the_nearest_integer_within_the_limits(values, scale, zero_point, kernels):
    e = Encoding(np.asarray(scale, f32), zero_point, -128, 127)
    q = KERNELS[kernels].quantize(f32(values), e)
    assert ((q >= e.lo) & (q <= e.hi)).all()
    exact = np.clip(np.asarray(values, np.float64) / scale, e.lo, e.hi)
    assert (np.abs(q - exact) <= 0.5 + 1e-3).all()
    np.testing.assert_array_equal(KERNELS[kernels].quantize(grid.dequantize(q, e), e), q)


@given(st.integers(-(2**26), 2**26), st.floats(2.0**-20, 0.75, width=32))
def test_fixed_point_is_within_one_of_the_exact_product(acc, value):
    exact = Fraction(acc) * Fraction(float(f32(value)))
    got = int(tflite.fixed_point(np.array([acc]), np.asarray(value))[0])
    assert abs(got - exact) <= 1


@settings(deadline=None)
@given(
    st.integers(0, 2**20), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2]), st.sampled_from([1, 2]),
    st.sampled_from([((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 1), (2, 0))]),
)  # fmt: skip
def test_convolution_is_the_sum_of_products(seed, channels, kernel, stride, dilation, padding):
    x, w, b = integers(seed, 2, channels, 7, 6), integers(seed + 1, 4, channels, kernel, kernel), integers(seed + 2, 4)
    got = accumulators.conv2d(x, w, b, (stride, stride), padding, (dilation, dilation), 1)
    padded = np.pad(x, ((0, 0), (0, 0), *padding))
    for n, o, i, j in np.ndindex(got.shape):
        rows = [i * stride + k * dilation for k in range(kernel)]
        columns = [j * stride + k * dilation for k in range(kernel)]
        patch = padded[n][:, rows][:, :, columns]
        assert got[n, o, i, j] == int((patch * w[o]).sum()) + b[o]


@given(st.integers(0, 2**20), scales, scales, scales, st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_add_is_the_rounded_sum_in_every_arithmetic(seed, sa, sb, sy, za, zb, zy):
    ea, eb, ey = (Encoding(np.asarray(s, f32), z, 0, 255) for s, z in ((sa, za), (sb, zb), (sy, zy)))
    rng = np.random.default_rng(seed)
    a, b = rng.integers(ea.lo, ea.hi + 1, 50), rng.integers(eb.lo, eb.hi + 1, 50)
    exact = (a * float(f32(sa)) + b * float(f32(sb))) / float(f32(sy))
    # A 31- or 21-bit multiplier is relative to the larger ratio.
    error = 0.5 + 2.0**-9 + 2.0**-12 * np.abs(exact)
    for name, kernels in KERNELS.items():
        y = kernels.add(a, b, ea, eb, ey, ey.lo, ey.hi)
        assert (np.abs(y - np.clip(exact, ey.lo, ey.hi)) <= error).all(), name


@given(st.integers(0, 2**20), st.sampled_from([None, 0]), st.booleans())
def test_weights_use_their_whole_range_and_the_bias_fits(seed, axis, heavy):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(5, 3, 2, 2)).astype(f32)
    b = (rng.normal(size=5) * (1e7 if heavy else 1)).astype(f32)
    scale = grid.weight_scale(w, b, 0.01, 64, axis)
    q = grid.quantize_weight(w, scale, 64, axis)
    assert np.abs(q).max() <= 64
    # The scale is rounded to float32; one unit more is still far below 2^24.
    assert (np.abs(grid.quantize_bias(b, 0.01, scale)) <= grid.BIAS_LIMIT + 1).all()
    if not heavy:
        assert np.abs(q).max() == 64


@pytest.mark.parametrize("name", ["minmax", "ema", "percentile", "mse", "importance"])
def test_estimators_stream_and_ignore_the_order_of_scale(name):
    rng = np.random.default_rng(0)
    estimator = make_estimator(name, -128, 127, False)
    for _ in range(20):
        estimator.update(rng.normal(size=1000).astype(f32))
    low, high = estimator.range()
    assert -6 < low < -2
    assert 2 < high < 6


def test_percentile_and_mse_cut_an_outlier_that_minmax_keeps():
    values = np.random.default_rng(0).normal(size=200_000).astype(f32)
    values[0] = 1000.0
    highs = {}
    for name in ("minmax", "percentile", "mse"):
        estimator = make_estimator(name, -128, 127, False)
        estimator.update(values)
        highs[name] = estimator.range()[1]
    assert highs["minmax"] == 1000.0
    assert highs["percentile"] < 100
