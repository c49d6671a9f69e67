"""The kernels of attention, in NumPy: products of two activations, and softmax.

Tensors are on the integer grid, as in :mod:`qat.arithmetic.numerics`, whose names of arithmetics stand here for their runtimes:

- ``mlas``: QLinearMatMul leaves its accumulator as QLinearConv does (mlas/lib/quantize.cpp). Both operands are uint8, whose
  products are exact on every x86: without VNNI, int8 beside uint8 adds pairs of products in 16 bits, which saturate.
  QLinearSoftmax looks exponentials up in a table of float32 (contrib_ops/cpu/quantization/qlinear_softmax.cc).
- ``xnnpack``: LiteRT's delegate takes products whose second operand has the zero point 0, and leaves the accumulator as its
  convolutions do. It takes no softmax in int8.
- ``reference``: TFLite's own kernels, which run what the delegate leaves, 20 times as slowly. Their batch_matmul leaves the
  accumulator by a 31-bit multiplier, halves away from zero (kernels/batch_matmul.cc); their softmax looks exponentials up as well
  (kernels/internal/optimized/optimized_ops.h; on 64-bit ARM in another table, of 16 bits).
"""

from __future__ import annotations

import numpy as np

from .encoding import Encoding
from .numerics import f32, multiplier

#: The zero-based scale that every runtime's kernel prescribes for probabilities: the integers are 256ths.
PROBABILITY = 1 / 256


def matmul(a: np.ndarray, b: np.ndarray, transpose_b: bool) -> np.ndarray:
    """Return the exact int64 accumulator of ``a @ b``, of the last two axes; ``b`` is given as [..., n, k] where transposed."""
    b = np.swapaxes(b, -1, -2) if transpose_b else b
    return np.rint(np.asarray(a, np.float64) @ np.asarray(b, np.float64)).astype(np.int64)


def product_kernels(kernels: str, b_zero_point: int) -> str:
    """Return the arithmetic of a product in a program of ``kernels``."""
    return "reference" if kernels == "xnnpack" and b_zero_point != 0 else kernels


def product_multiplier(a_scale: float, b_scale: float, y_scale: float, kernels: str) -> float:
    """Return ``(s_a s_b) / s_y`` as the runtimes' preparation computes it: all in float32, TFLite's quotient in float64."""
    if kernels == "reference":
        return float(f32(a_scale) * f32(b_scale)) / float(f32(y_scale))
    return float(multiplier(a_scale, np.asarray(b_scale), y_scale))


def exponentials(scale: float, length: int, kernels: str) -> np.ndarray:
    """Return what the kernels hold instead of ``exp``: float32 of shape (256,), by ``x - max(x) + 255``.

    ``mlas`` multiplies all by a constant, so that the largest of ``length`` of them still have a sum.

    Args:
        scale: of the input, times the factor that the softmax applies to it.
        length: of the axis.
        kernels: the arithmetic.
    """
    if kernels == "mlas":
        largest = f32(np.log(np.float64(f32(np.finfo(f32).max) / f32(length))))  # the logarithm is float32's
        shift = max(0.0, float(largest) - 5.0) / float(f32(scale))
        return np.exp((np.arange(-255, 1) + shift) * float(f32(scale))).astype(f32)
    return expf(-f32(scale) * np.arange(255, -1, -1).astype(f32))


def expf(x: np.ndarray) -> np.ndarray:
    """Return the C library's ``expf``: a 32nd power of two and a cubic in float64, off by half a unit in the last place.

    That of glibc, musl and Android (Arm's optimized routines). NumPy's own differs from it in one of 2,000 values.
    """
    steps = np.asarray(x, np.float64) * (32 / np.log(2.0))
    whole = np.rint(steps)
    r = (steps - whole) / 32
    c1, c2, c3 = (float.fromhex(c) for c in ("0x1.62e42ff0c52d6p-1", "0x1.ebfce50fac4f3p-3", "0x1.c6af84b912394p-5"))
    return np.asarray(((c3 * r + c2) * (r * r) + (c1 * r + 1.0)) * np.exp2(whole / 32), f32)


def softmax(x: np.ndarray, encoding: Encoding, beta: float, kernels: str) -> np.ndarray:
    """Return the softmax of ``beta`` times the real values over the last axis, as float32 integers in 0..255: 256ths.

    The sum is one of float32, from the first element to the last.
    """
    x = np.asarray(x, np.int64)
    table = exponentials(float(f32(encoding.scale) * f32(beta)), x.shape[-1], kernels)
    e = table[x - x.max(-1, keepdims=True) + 255]
    total = np.cumsum(e, -1, dtype=f32)[..., -1:]
    if kernels == "mlas":
        return np.minimum(np.rint(e.astype(np.float64) * 256 / total), 255).astype(f32)
    # Halves away from zero, of numbers that are not negative.
    p = (e * (f32(1) / (total * f32(PROBABILITY)))).astype(np.float64)
    return np.minimum(np.floor(p + 0.5), 255).astype(f32)
