"""Float arithmetic of x86 kernels with AVX2 or AVX512, in NumPy: a product and a sum with one rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .grid import f32


def fma(a: np.ndarray | np.float32, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """Return ``a * b + c`` with one rounding: a product of two float32 is exact in float64."""
    found: np.ndarray = (np.multiply(a, b, dtype=np.float64) + c).astype(f32)
    return found


def polynomial(factors: Sequence[str | float], x: np.ndarray) -> np.ndarray:
    """Return a polynomial of ``x`` by one :func:`fma` a power; the factor of the highest comes first."""
    value = np.full_like(x, number(factors[0]))
    for factor in factors[1:]:
        value = fma(value, x, number(factor))
    return value


def power_of_two(x: np.ndarray, magic: float, bias: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole exponents of two in ``exp(x)``, and two to that power; adding ``magic`` rounds to whole numbers."""
    shifted = fma(x, f32(1.44269504088896341), f32(magic))
    return shifted - f32(magic), ((shifted.view(np.int32) << 23) + (bias << 23)).view(f32)


def times_power_of_two(x: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Return float32 numbers times two to the power of whole exponents, with one rounding: the instruction ``vscalefps``."""
    powers = ((exponents.astype(np.int64) + 1023) << 52).view(np.float64)
    found: np.ndarray = (x * powers).astype(f32)
    return found


def flushed(x: np.ndarray) -> np.ndarray:
    """Return zeros for numbers without a leading one, as XNNPACK has the processor do."""
    return np.where(np.abs(x) < np.finfo(f32).tiny, f32(0), x)


def number(digits: str | float) -> np.float32:
    """Return a float32 from hexadecimal digits, or from a number."""
    return f32(float.fromhex(digits) if isinstance(digits, str) else digits)
