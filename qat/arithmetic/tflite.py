"""The arithmetic of TFLite's reference kernels, in NumPy; microcontrollers run them too (tflite/kernels/internal/reference).

The sources are common.h and reference/integer_ops/. An accumulator is multiplied by a fixed-point number of 31 bits. Every
function bears the name that it has in the other runtimes' modules.
"""

from __future__ import annotations

import math

import numpy as np

from .accumulators import window_sums
from .attention import PROBABILITY, PROBABILITY_16, expf
from .encoding import Encoding
from .grid import f32, round_half_away
from .grid import multiplier as multiplier


def quantize(x: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Return ``x`` on the integer grid, as float32: divided by the scale, halves away from zero (AffineQuantize)."""
    v = round_half_away(np.asarray(x, f32) / np.asarray(encoding.scale, f32))
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)


def requantize(acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Return ``clamp(acc * multiplier, lo, hi)`` by :func:`fixed_point`; ``multiplier`` broadcasts against ``acc``."""
    return np.clip(fixed_point(np.asarray(acc, np.int64), multiplier).astype(f32), lo, hi).astype(f32)


def quantize_multiplier(value: float) -> tuple[int, int]:
    """Return (31-bit mantissa, shift) with ``value ~ mantissa * 2^(shift - 31)`` (TFLite QuantizeMultiplier)."""
    if value == 0.0:
        return 0, 0
    mantissa, shift = math.frexp(float(value))
    q = math.floor(mantissa * (1 << 31) + 0.5)
    if q == 1 << 31:
        q, shift = q // 2, shift + 1
    return (0, 0) if shift < -31 else (q, shift)


def fixed_point(acc: np.ndarray, value: np.ndarray, halves_up: bool = False) -> np.ndarray:
    """Return ``acc * value`` by TFLite's MultiplyByQuantizedMultiplier: two roundings, both halves away from zero, or up.

    ``RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(acc << left, mantissa), right)`` (gemmlowp fixedpoint.h); halves go up
    in the vectorized kernels.
    """
    value = np.broadcast_to(np.asarray(value, np.float64), np.broadcast_shapes(np.shape(value), acc.shape))
    pairs = {v: quantize_multiplier(v) for v in np.unique(value)}
    mantissa = np.vectorize(lambda v: pairs[v][0], otypes=[np.int64])(value)
    shift = np.vectorize(lambda v: pairs[v][1], otypes=[np.int64])(value)
    product = (acc << np.maximum(shift, 0)) * mantissa
    right = np.maximum(-shift, 0)
    half = (np.int64(1) << right) >> 1
    if halves_up:
        return (((product + (1 << 30)) >> 31) + half) >> right
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # C's division truncates.
    high = np.sign(product + nudge) * (np.abs(product + nudge) >> 31)
    return np.sign(high) * ((np.abs(high) + half) >> right)


def add(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a + b`` on ``ey``'s grid, clamped to ``[lo, hi]``.

    Both inputs are shifted left by 20 bits and rescaled by ``s_in / (2 max s)`` (reference/integer_ops/add.h).
    """
    twice = 2.0 * max(float(ea.scale), float(eb.scale))
    shifted = (np.asarray(x, np.int64) << 20 for x in (a, b))
    total = sum(fixed_point(x, np.asarray(float(e.scale) / twice)) for x, e in zip(shifted, (ea, eb), strict=True))
    v = fixed_point(np.asarray(total), np.asarray(twice / ((1 << 20) * float(ey.scale))))
    return np.clip(v, lo, hi).astype(f32)


def mul(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a * b`` on ``ey``'s grid: one requantization by ``(s_a * s_b) / s_y``."""
    acc = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return requantize(acc, multiplier(float(ea.scale), np.asarray(eb.scale), float(ey.scale)), lo, hi)


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

    The kernel averages the stored integers, zero point included, halves away from zero (reference/integer_ops/pooling.h).
    """
    total, count = window_sums(x, kernel, strides, padding)
    raw = total + count * encoding.zero_point
    v = np.trunc((raw + np.where(raw > 0, count // 2, -(count // 2))) / count) - encoding.zero_point
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)


def product_multiplier(a_scale: float, b_scale: float, y_scale: float) -> float:
    """Return ``(s_a s_b) / s_y`` of a product of two activations: the quotient is in float64 (kernels/batch_matmul.cc)."""
    return float(f32(a_scale) * f32(b_scale)) / float(f32(y_scale))


def exponentials(scale: float, length: int) -> np.ndarray:
    """Return the kernel's table in place of ``exp``: float32 of shape (256,), by ``x - max(x) + 255``.

    Args:
        scale: of the input, times the factor that the softmax applies to it.
        length: of the axis, which changes nothing here.
    """
    return expf(-f32(scale) * np.arange(255, -1, -1).astype(f32))


def softmax(x: np.ndarray, ex: Encoding, ey: Encoding, beta: float) -> np.ndarray:
    """Return the softmax of ``beta`` times the real values over the last axis, as float32 integers in 0..255.

    Exponentials are looked up (kernels/internal/optimized/optimized_ops.h; on 64-bit ARM in another table, of 16 bits). The sum
    is one of float32, from the first element to the last. A grid finer than 256ths is reached by way of 32768ths, the scale that
    the kernel prescribes for 16 bits, which a QUANTIZE turns into 8 bits.
    """
    x = np.asarray(x, np.int64)
    table = exponentials(float(f32(ex.scale) * f32(beta)), x.shape[-1])
    e = table[x - x.max(-1, keepdims=True) + 255]
    total = np.cumsum(e, -1, dtype=f32)[..., -1:]
    fine = is_fine(ey)
    # Halves away from zero, of numbers that are not negative.
    p = (e * (f32(1) / (total * f32(PROBABILITY_16 if fine else PROBABILITY)))).astype(np.float64)
    p = np.minimum(np.floor(p + 0.5), 2**15 - 1 if fine else ey.hi)
    return requantize(p, np.asarray(PROBABILITY_16 / float(ey.scale)), ey.lo, ey.hi) if fine else p.astype(f32)


def is_fine(encoding: Encoding) -> bool:
    """Return whether the grid of a softmax is finer than the one that the kernel prescribes for 8 bits."""
    return bool(f32(encoding.scale) < f32(PROBABILITY))
