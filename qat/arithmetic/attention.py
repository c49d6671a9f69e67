"""The parts of attention that the runtimes share, in NumPy. Products and softmax by runtime: :mod:`qat.arithmetic.kernels`.

- ONNX Runtime: both operands of a product are uint8, whose products are exact on every x86: without VNNI, int8 beside uint8 adds
  pairs of products in 16 bits, which saturate.
- LiteRT's delegate takes products whose second operand has the zero point 0. It takes no softmax in int8.
- TFLite's own kernels run the operators that the delegate does not take, 20 times as slowly.
"""

from __future__ import annotations

import numpy as np

from .grid import f32

#: The scale of probabilities that TFLite's kernel prescribes in 8 bits; no grid of probabilities is coarser.
PROBABILITY = 1 / 256
#: The scale that TFLite's kernel prescribes in 16 bits.
PROBABILITY_16 = 1 / 32768


def product_kernels(kernels: str, b_zero_point: int) -> str:
    """Return the arithmetic of a product in a program of ``kernels``."""
    return "reference" if kernels == "xnnpack" and b_zero_point != 0 else kernels


def expf(x: np.ndarray) -> np.ndarray:
    """Return the C library's ``expf``: a 32nd power of two and a cubic in float64, off by half a unit in the last place.

    That of glibc, musl and Android (Arm's optimized routines). NumPy's own differs from it in one of 2,000 values.
    """
    steps = np.asarray(x, np.float64) * (32 / np.log(2.0))
    whole = np.rint(steps)
    r = (steps - whole) / 32
    c1, c2, c3 = (float.fromhex(c) for c in ("0x1.62e42ff0c52d6p-1", "0x1.ebfce50fac4f3p-3", "0x1.c6af84b912394p-5"))
    return np.asarray(((c3 * r + c2) * (r * r) + (c1 * r + 1.0)) * np.exp2(whole / 32), f32)
