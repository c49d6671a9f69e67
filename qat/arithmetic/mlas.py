"""The arithmetic of ONNX Runtime's kernels, all optimizations on, in NumPy (onnxruntime/core/mlas/lib).

The sources are quantize.cpp, qladd.cpp and qlgavgpool.cpp. Every function bears the name that it has in the other runtimes'
modules.
"""

from __future__ import annotations

import numpy as np

from .accumulators import bilinear, conv_transpose2d, window_sums
from .encoding import Encoding
from .fma import fma
from .grid import f32
from .grid import multiplier as multiplier
from .grid import requantize as requantize


def quantize(x: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Return ``x`` on the integer grid, as float32: divided by the scale, half to even (ONNX QuantizeLinear)."""
    with np.errstate(over="ignore"):  # an overflow ends at the limit, as it should
        v = np.rint(np.asarray(x, f32) / np.asarray(encoding.scale, f32))
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)


def add(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a + b`` on ``ey``'s grid, clamped to ``[lo, hi]``.

    ``fma(A, r_a, fma(B, r_b, z_y - fma(r_a, z_a, r_b z_b)))`` in float32 on the raw integers ``A = a + z_a``, ``r = s_in / s_y``
    (MlasQLinearAdd, as its compiler contracts it). Another order differs in one of 10^6 values.
    """
    ra, rb = f32(ea.scale) / f32(ey.scale), f32(eb.scale) / f32(ey.scale)
    fixed = f32(ey.zero_point) - fma(f32(ea.zero_point), ra, rb * f32(eb.zero_point))
    inner = fma((np.asarray(b, np.int64) + eb.zero_point).astype(f32), rb, fixed)
    v = np.rint(fma((np.asarray(a, np.int64) + ea.zero_point).astype(f32), ra, inner)) - ey.zero_point
    return np.clip(v, lo, hi).astype(f32)


def mul(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a * b`` on ``ey``'s grid: one requantization by ``(s_a * s_b) / s_y``.

    The zero point is added before the rounding (MlasQLinearMul); other runtimes add it after. In float32 that differs in one of
    10^5 values.
    """
    acc = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    value = multiplier(float(ea.scale), np.asarray(eb.scale), float(ey.scale))
    v = np.rint(acc.astype(f32) * value + f32(ey.zero_point)) - f32(ey.zero_point)
    return np.clip(v, lo, hi).astype(f32)


def mean(x: np.ndarray, axes: tuple[int, ...], ex: Encoding, ey: Encoding, keepdims: bool = False) -> np.ndarray:
    """Return the mean over ``axes``: the exact sum, requantized by ``s_x / (s_y * count)``."""
    x = np.asarray(x, np.int64)
    count = int(np.prod([x.shape[a] for a in axes]))
    value = f32(ex.scale) / (f32(ey.scale) * f32(count))
    return requantize(x.sum(axes, keepdims=keepdims), np.asarray(value), ey.lo, ey.hi)


def avg_pool2d(
    x: np.ndarray,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    encoding: Encoding,
) -> np.ndarray:
    """Return the averages over the elements of each window that lie inside ``x`` [n, c, h, w]; one scale in and out.

    Written as a convolution with ones, so ``round(sum * ((s * float32(1 / count)) / s))``. With padding the count differs between
    windows: the stored integers, zero point included, are averaged in float32 (pooling.cpp), which adds them exactly.
    """
    total, count = window_sums(x, kernel, strides, padding)
    if np.any(padding):
        v = np.rint((total + count * encoding.zero_point).astype(f32) / count.astype(f32)) - encoding.zero_point
    else:
        scale = f32(encoding.scale)
        v = np.rint(total.astype(f32) * ((scale * (f32(1.0) / count.astype(f32))) / scale))
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)


def upsample_bilinear2d(x: np.ndarray, factors: tuple[int, int], encoding: Encoding) -> np.ndarray:
    """Return ``x`` [n, c, h, w] up-sampled, with one scale in and out: ``round(sum * ((s * float32(1 / divisor)) / s))``."""
    taps, divisor, cut = bilinear(factors)
    edges = np.pad(np.asarray(x, np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    weight = np.broadcast_to(taps, (x.shape[1], 1, *taps.shape))
    total = conv_transpose2d(edges, weight, None, factors, ((cut[0],) * 2, (cut[1],) * 2), x.shape[1])
    value = multiplier(float(encoding.scale), np.asarray(f32(1.0) / f32(divisor)), float(encoding.scale))
    return requantize(total, value, encoding.lo, encoding.hi)


def product_multiplier(a_scale: float, b_scale: float, y_scale: float) -> float:
    """Return ``(s_a s_b) / s_y`` of a matrix product: QLinearMatMul requantizes as QLinearConv does (quantize.cpp)."""
    return float(multiplier(a_scale, np.asarray(b_scale), y_scale))


def exponentials(scale: float, length: int) -> np.ndarray:
    """Return the kernel's table in place of ``exp``: float32 of shape (256,), by ``x - max(x) + 255``.

    All are multiplied by a constant, so that the largest of ``length`` of them still have a sum.

    Args:
        scale: of the input, times the factor that the softmax applies to it.
        length: of the axis.
    """
    largest = f32(np.log(np.float64(f32(np.finfo(f32).max) / f32(length))))  # the logarithm is float32's
    shift = max(0.0, float(largest) - 5.0) / float(f32(scale))
    return np.exp((np.arange(-255, 1) + shift) * float(f32(scale))).astype(f32)


def softmax(x: np.ndarray, ex: Encoding, ey: Encoding, beta: float) -> np.ndarray:
    """Return the softmax of ``beta`` times the real values over the last axis, as float32 integers in 0..255.

    QLinearSoftmax looks exponentials up in a table of float32 (contrib_ops/cpu/quantization/qlinear_softmax.cc). The sum is one
    of float32, from the first element to the last. Each is multiplied by the whole part of ``1 / s_y``, then divided, in float64.
    """
    x = np.asarray(x, np.int64)
    table = exponentials(float(f32(ex.scale) * f32(beta)), x.shape[-1])
    e = table[x - x.max(-1, keepdims=True) + 255]
    total = np.cumsum(e, -1, dtype=f32)[..., -1:]
    return np.minimum(np.rint(e.astype(np.float64) * whole_units(ey) / total), ey.hi).astype(f32)


def whole_units(encoding: Encoding) -> float:
    """Return the whole part of ``1 / scale``, by which QLinearSoftmax multiplies."""
    return float(np.floor(f32(1) / f32(encoding.scale)))
