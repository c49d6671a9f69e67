"""The integer grid: the arithmetic that the kernels of every runtime share, in NumPy.

Tensors are on the integer grid: ``q - zero_point``, as int64 or integer-valued floats.
"""

from __future__ import annotations

import numpy as np

from .encoding import Encoding

f32 = np.float32

#: Integers up to here are exact in float32, and so is a sum of integers that stays below it, in any order.
EXACT_IN_FLOAT = 2**24

#: Biases are kept below this many grid units, so that an accumulator is exact in float32 (24 bits of mantissa).
BIAS_LIMIT = 2**23

#: How many steps of an output one unit of a layer's products may be. XNNPACK refuses more, and such an output is 0 or saturated
#: (https://github.com/google/XNNPACK, src/operators/convolution-nhwc.c: "scale ratio must be in range").
UNIT_LIMIT = 256.0


def dequantize(x_int: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Return the real values of a tensor on the integer grid: ``scale * x_int``."""
    return np.asarray(x_int, f32) * np.asarray(encoding.scale, f32)


def round_half_away(v: np.ndarray) -> np.ndarray:
    """Round to the nearest integer, halves away from zero (C's ``std::round``, TFLite's ``TfLiteRound``)."""
    return np.trunc(v + np.copysign(np.asarray(0.5, v.dtype), v))


def weight_scale(weight: np.ndarray, bias: np.ndarray | None, input_scale: float, qmax: int, axis: int | None) -> np.ndarray:
    """Return the symmetric scale(s) of a weight: ``max|w| / qmax``, widened where the bias would exceed BIAS_LIMIT.

    One scale per entry of ``axis``, of shape (channels,), or a single one of shape (1,) where ``axis`` is None.
    """
    w = np.abs(np.asarray(weight, f32))
    peak = w.max().reshape(1) if axis is None else np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).max(1)
    scale = np.maximum(peak / f32(qmax), f32(np.finfo(f32).tiny * 2.0**40))
    if bias is not None:
        floor = np.abs(np.asarray(bias, f32)) / (f32(BIAS_LIMIT) * f32(input_scale))
        scale = np.maximum(scale, floor.max().reshape(1) if axis is None else floor)
    return scale.astype(f32)


def quantize_weight(weight: np.ndarray, scale: np.ndarray, qmax: int, axis: int | None) -> np.ndarray:
    """Return ``clip(round(w / scale), -qmax, qmax)`` as float32 integers."""
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    return np.clip(np.rint(np.asarray(weight, f32) / scale.reshape(shape)), -qmax, qmax).astype(f32)


def quantize_bias(bias: np.ndarray, input_scale: float, scale: np.ndarray) -> np.ndarray:
    """Return ``round(b / (s_x s_w))`` as float32 integers; the kernels read it as int32."""
    return np.rint(np.asarray(bias, f32) / (f32(input_scale) * scale))


def multiplier(input_scale: float, scale: np.ndarray, output_scale: float) -> np.ndarray:
    """Return ``(s_x * s_w) / s_y``, each step in float32, as the runtimes' preparation computes it."""
    return ((f32(input_scale) * np.asarray(scale, f32)) / f32(output_scale)).astype(f32)


def requantize(acc: np.ndarray, multiplier: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Return ``clamp(round(float32(acc) * multiplier), lo, hi)``, half to even; ``multiplier`` is float32 and broadcasts.

    That is what ONNX Runtime and LiteRT's delegate do to an exact int64 accumulator.
    """
    return np.clip(np.rint(np.asarray(acc, np.int64).astype(f32) * np.asarray(multiplier, f32)), lo, hi).astype(f32)
