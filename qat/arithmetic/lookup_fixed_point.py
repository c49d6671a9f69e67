"""Functions that LiteRT's int8 kernels compute in fixed point, as tables: measured equal to the kernels on all 256 integers."""

from __future__ import annotations

import numpy as np

from .encoding import Encoding
from .grid import f32
from .tflite import quantize_multiplier


def leaky_relu(x: Encoding, y: Encoding, alpha: float) -> np.ndarray:
    """Return XNNPACK's leaky ReLU: multipliers with 8 fractional bits, halves up (xnn_init_qs8_lrelu_params)."""
    q = np.arange(x.lo, x.hi + 1)
    ratio = f32(x.scale) / f32(y.scale)
    positive, negative = (int(np.rint(f32(256) * r)) for r in (ratio, ratio * f32(alpha)))
    return (np.where(q >= 0, positive, negative) * q + 128) >> 8


def hard_swish(x: Encoding, y: Encoding) -> np.ndarray:
    """Return TFLite's hard swish in 16 bits (kernels/internal/reference/hard_swish.h)."""
    high = f32(1 / 128) * f32(x.scale)
    out_multiplier, out_shift = quantize_multiplier(float(high / f32(y.scale)))
    relu_multiplier, relu_shift = quantize_multiplier(float(high / f32(3 / 32768)))
    q = _saturate(np.arange(x.lo, x.hi + 1, dtype=np.int64) * 128)
    scaled = _doubling_high(q, _upper_half(out_multiplier))
    relu = _saturate(q << (relu_shift - 1)) if relu_shift > 0 else q
    relu = _doubling_high(relu, _upper_half(relu_multiplier))
    relu = _saturate(relu << 1) if relu_shift > 0 else _halved(relu, -relu_shift)
    product = ((relu + (1 << 15)) >> 1) * scaled
    v = np.sign(product) * (np.abs(product) >> 15)
    return v << out_shift if out_shift > 0 else _halved(v, -out_shift)


def _saturate(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _upper_half(multiplier: int) -> int:
    return min((multiplier + (1 << 15)) >> 16, (1 << 15) - 1)


def _doubling_high(a: np.ndarray, b: int) -> np.ndarray:
    """Return ``a b / 2^15``, halves away from zero (gemmlowp SaturatingRoundingDoublingHighMul in 16 bits)."""
    product = a * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return _saturate(np.sign(nudged) * (np.abs(nudged) >> 15))


def _halved(x: np.ndarray, times: int) -> np.ndarray:
    """Return ``x / 2^times``, halves away from zero (gemmlowp RoundingDivideByPOT)."""
    mask = (1 << times) - 1
    return (x >> times) + ((x & mask) > (mask >> 1) + (x < 0))
