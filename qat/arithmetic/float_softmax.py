"""The float softmax of both runtimes on an x86 processor with AVX2 and without AVX512: exponentials and sums, bit for bit.

Each is a power of two times a polynomial, in fused multiplications and additions, and a sum of eight lanes. On other processors
the runtimes have other kernels.

- ONNX Runtime: ``MlasComputeSumExpF32KernelFma3`` of onnxruntime/core/mlas/lib/x86_64/TransKernelFma3.S.
- LiteRT's delegate: XNNPACK's src/f32-raddstoreexpminusmax, avx2-rr2-p5 with 32 numbers a turn and two sums.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .fma import flushed, fma, number, polynomial, power_of_two
from .grid import f32

#: The numbers of a vector.
_LANES = 8


def of_onnxruntime(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis as ONNX Runtime computes it."""
    below = np.maximum(_below_greatest(x), f32(-88.3762626647949))
    whole, power = power_of_two(below, 12582912.0, 127)
    rest = fma(whole, f32(-1.42860677e-6), fma(whole, f32(-6.93145752e-1), below))
    factors = ("0x1.694p-10", "0x1.125edcp-7", "0x1.555b5ap-5", "0x1.55545p-3", "0x1.fffff6p-2", "0x1p+0", "0x1p+0")
    numbers = polynomial(factors, rest) * power
    a, b, c, d, e, f, g, h = _lanes(numbers)
    return _divided(numbers, ((a + b) + (c + d)) + ((e + f) + (g + h)))


def of_xnnpack(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis as LiteRT's delegate computes it."""
    numbers = exponentials_of_xnnpack(_below_greatest(x), ("-0x1.62e43p-1", "0x1.05c61p-29"))
    turns = len(numbers) // (4 * _LANES)
    of_turns = numbers[: turns * 4 * _LANES].reshape(-1, 2, _LANES, *numbers.shape[1:])
    first, second = (_lanes(of_turns[:, half].reshape(-1, *numbers.shape[1:])) for half in (0, 1))
    starts = [one + other for one, other in zip(first, second, strict=True)]
    a, b, c, d, e, f, g, h = _lanes(numbers[turns * 4 * _LANES :], starts)
    return flushed(_divided(numbers, ((a + e) + (c + g)) + ((b + f) + (d + h))))


def exponentials_of_xnnpack(x: np.ndarray, logarithm: tuple[str, ...]) -> np.ndarray:
    """Return the exponentials of numbers up to 0 as LiteRT's delegate computes them.

    Args:
        x: the numbers.
        logarithm: that of 2 with its sign changed, in as many parts as the kernel has.
    """
    far = number("-0x1.5d589ep6")  # of what is further below, the exponential is 0
    rest = np.maximum(x, far)
    whole, power = power_of_two(rest, float.fromhex("0x1.8000fep23"), 0)
    for part in logarithm:
        rest = fma(whole, number(part), rest)
    of_rest = polynomial(("0x1.0f9f9cp-7", "0x1.573a1ap-5", "0x1.555a8p-3", "0x1.fffdc6p-2", "0x1.fffff6p-1"), rest)
    return np.where(x < far, f32(0), flushed(fma(flushed(rest * power), of_rest, power)))


def _below_greatest(x: np.ndarray) -> np.ndarray:
    """Return numbers less the greatest of their row, the axis of a row first."""
    rows = np.ascontiguousarray(np.moveaxis(x, -1, 0))
    found: np.ndarray = rows - rows.max(0)
    return found


def _lanes(numbers: np.ndarray, starts: Sequence[Any] = (f32(0),) * _LANES) -> list[Any]:
    """Return the sums of every eighth number of a row, from what there is at the start."""
    return [functools.reduce(np.add, numbers[lane::_LANES], start) for lane, start in enumerate(starts)]


def _divided(numbers: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return shares of the total, the axis of a row last."""
    return np.moveaxis(numbers * (f32(1) / total), 0, -1)
