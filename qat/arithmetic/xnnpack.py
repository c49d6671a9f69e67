"""The arithmetic of LiteRT's default delegate, in NumPy (XNNPACK src/microparams-init.c, src/qs8-*).

Every function bears the name that it has in the other runtimes' modules. TFLite's own kernels run the operators that the delegate
does not take: pooling, softmax, and additions of very different scales.
"""

from __future__ import annotations

import math

import numpy as np

from . import tflite
from .encoding import Encoding
from .grid import f32
from .grid import multiplier as multiplier
from .grid import requantize as requantize
from .mlas import product_multiplier as product_multiplier
from .tflite import avg_pool2d as avg_pool2d
from .tflite import exponentials as exponentials
from .tflite import softmax as softmax

#: The ``s_in / s_y`` of the additions that the delegate takes: from the first to below the second (xnnpack_delegate.cc).
ADD_RATIOS = (2.0**-10, 2.0**8)


def quantize(x: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Return ``x`` on the integer grid, as float32: times the float32 reciprocal of the scale (xnn_init_f32_qs8_cvt)."""
    v = np.rint(np.asarray(x, f32) * (f32(1.0) / np.asarray(encoding.scale, f32)))
    return np.clip(v, encoding.lo, encoding.hi).astype(f32)


def add(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a + b`` on ``ey``'s grid, clamped to ``[lo, hi]``.

    Integer multipliers of 21 bits share one shift, halves up (xnn_init_qs8_add_minmax_params). TFLite's own kernel adds where
    the delegate does not: see :func:`adds`.
    """
    ra, rb = f32(ea.scale) / f32(ey.scale), f32(eb.scale) / f32(ey.scale)
    if not adds(ra, rb):
        return tflite.add(a, b, ea, eb, ey, lo, hi)
    ma, mb, shift = add_multipliers(float(ra), float(rb))
    v = (np.asarray(a, np.int64) * ma + np.asarray(b, np.int64) * mb + (1 << (shift - 1))) >> shift
    return np.clip(v, lo, hi).astype(f32)


def adds(ra: np.float32, rb: np.float32) -> bool:
    """Whether the delegate takes an addition with these ``s_in / s_y``."""
    low, high = ADD_RATIOS
    return bool(min(ra, rb) >= low and max(ra, rb) < high)


def add_multipliers(ra: float, rb: float) -> tuple[int, int, int]:
    """Return the (multiplier a, multiplier b, shift) for ``r = s_in / s_y``."""
    exponent = math.frexp(max(abs(ra), abs(rb)))[1] - 1
    shift = 20 - exponent
    return int(np.rint(math.ldexp(ra, shift))), int(np.rint(math.ldexp(rb, shift))), shift


def mul(a: np.ndarray, b: np.ndarray, ea: Encoding, eb: Encoding, ey: Encoding, lo: float, hi: float) -> np.ndarray:
    """Return ``a * b`` on ``ey``'s grid: one requantization by ``(s_a * s_b) / s_y``."""
    acc = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return requantize(acc, multiplier(float(ea.scale), np.asarray(eb.scale), float(ey.scale)), lo, hi)


def mean(x: np.ndarray, axes: tuple[int, ...], ex: Encoding, ey: Encoding, keepdims: bool = False) -> np.ndarray:
    """Return the mean over ``axes`` by ``s_x / s_y * (1 / count)``.

    The kernel sums the stored integers, zero point included, and takes the zero points in after it has multiplied: in float32
    that differs from :func:`qat.arithmetic.mlas.mean` where the mean is near a half, in one of 10^4 values. Measured on 20,000
    such sums.
    """
    x = np.asarray(x, np.int64)
    count = int(np.prod([x.shape[a] for a in axes]))
    scale = (f32(ex.scale) / f32(ey.scale)) * (f32(1) / f32(count))
    shift = f32(ey.zero_point) - f32(count * ex.zero_point) * scale
    raw = (x.sum(axes, keepdims=keepdims) + count * ex.zero_point).astype(f32)
    return np.clip(np.rint(raw * scale + shift) - f32(ey.zero_point), ey.lo, ey.hi).astype(f32)
