"""The arithmetic of TFLite's kernels for activations of 16 bits, in NumPy. LiteRT's delegate takes none of them.

Zero points are 0, biases and accumulators int64 (tensorflow/lite/kernels/internal/reference/integer_ops/). Seen equal to LiteRT's
default kernels in every bit. Pooling, concatenation and borders are as with 8 bits, and not here.
"""

from __future__ import annotations

import numpy as np

from .encoding import Encoding
from .grid import f32
from .tflite import fixed_point, quantize_multiplier

#: The limits of an activation.
LIMITS = (-(2**15), 2**15 - 1)
#: Biases are kept below this many grid units: the kernels' multiplication takes accumulators of 48 bits.
BIAS_LIMIT = 2**38


def requantize_dense(acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Return ``clamp(round(acc * multiplier), lo, hi)``, halves up; ``multiplier`` is float64 and broadcasts against ``acc``."""
    return np.clip(np.floor(np.asarray(acc, np.int64) * multiplier + 0.5), lo, hi).astype(f32)


def requantize_conv(acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Return the same of a convolution, whose multiplier has 15 bits only (``MultiplyByQuantizedMultiplier`` of an int64).

    The result is up to 1 step away from the exact product.
    """
    acc = np.asarray(acc, np.int64)
    pairs = [quantize_multiplier(v) for v in np.ravel(multiplier)]
    mantissa, shift = (np.array(part, np.int64).reshape(np.shape(multiplier)) for part in zip(*pairs, strict=True))
    reduced = np.where(mantissa < 0x7FFF0000, (mantissa + (1 << 15)) >> 16, 0x7FFF)
    right = 15 - shift
    return np.clip((acc * reduced + (np.int64(1) << (right - 1))) >> right, lo, hi).astype(f32)


def add(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a + b``: both inputs shifted left by 15 bits and rescaled by ``s_in / (2 max s)`` (reference/add.h).

    The inputs are rescaled with one rounding, halves up; their sum with the two of :func:`qat.arithmetic.tflite.fixed_point`.
    """
    sa, sb, sy = (float(e.scale) for e in (ea, eb, ey))
    twice = 2.0 * max(sa, sb)
    total = _once(np.asarray(a, np.int64) << 15, sa / twice) + _once(np.asarray(b, np.int64) << 15, sb / twice)
    return np.clip(fixed_point(total, np.asarray(twice / ((1 << 15) * sy))), lo, hi).astype(f32)


def _once(acc: np.ndarray, value: float) -> np.ndarray:
    """Return ``acc * value`` by a 31-bit multiplier, rounded once, halves up."""
    mantissa, shift = quantize_multiplier(value)
    right = 31 - shift
    return (acc * mantissa + (np.int64(1) << (right - 1))) >> right


def mul(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a * b``, rescaled by a float32 ``s_a s_b / s_y``."""
    value = (f32(ea.scale) * f32(eb.scale)) / f32(ey.scale)
    return np.clip(fixed_point(np.asarray(a, np.int64) * np.asarray(b, np.int64), np.asarray(float(value))), lo, hi).astype(f32)


def mean(x: np.ndarray, axes: tuple[int, ...], ex: Encoding, ey: Encoding, keepdims: bool = False) -> np.ndarray:
    """Return the mean over ``axes``: the sum by a multiplier whose mantissa the count divides (reduce.h, EvalIntegerMean)."""
    x = np.asarray(x, np.int64)
    count = int(np.prod([x.shape[a] for a in axes]))
    mantissa, shift = quantize_multiplier(float(ex.scale) / float(ey.scale))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    total, divided, right = x.sum(axes, keepdims=keepdims), (mantissa << extra) // count, max(extra - shift, 0)
    high = ((total << max(shift - extra, 0)) * divided + (1 << 30)) >> 31
    return np.clip(np.sign(high) * ((np.abs(high) + ((1 << right) >> 1)) >> right), *LIMITS).astype(f32)
