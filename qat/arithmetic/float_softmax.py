"""The float softmax of both runtimes on an x86 processor, with AVX2 or with AVX512: exponentials and sums, bit for bit.

Each is a power of two times a polynomial, in fused multiplications and additions, and a sum of as many lanes as a vector has
numbers. On other processors the runtimes have other kernels.

- ONNX Runtime: ``MlasComputeSumExpF32KernelFma3`` of onnxruntime/core/mlas/lib/x86_64/TransKernelFma3.S, and
  ``MlasComputeSumExpF32KernelAvx512F`` of TransKernelAvx512F.S beside it.
- LiteRT's delegate: XNNPACK's src/f32-raddstoreexpminusmax, avx2-rr2-p5 with 32 numbers a turn and two sums, and avx512f-rr2-p5
  with 64 numbers a turn and two sums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from .fma import flushed, fma, number, polynomial, power_of_two, times_power_of_two
from .grid import f32

#: The numbers of a vector.
_LANES = {"AVX2": 8, "AVX512": 16}


def _of_onnxruntime(x: np.ndarray) -> np.ndarray:
    below = np.maximum(_below_greatest(x), f32(-88.3762626647949))
    of_rest, _, power = _exponentials_of_onnxruntime(below, 127)
    numbers = of_rest * power
    return _divided(numbers, _in_pairs(_lanes(numbers, _LANES["AVX2"])))


def _of_onnxruntime_wide(x: np.ndarray) -> np.ndarray:
    below = np.maximum(_below_greatest(x), f32(-103.9720840454))
    of_rest, whole, _ = _exponentials_of_onnxruntime(below, 0)
    numbers = times_power_of_two(of_rest, whole)
    return _divided(numbers, _in_pairs(_halved(_lanes(numbers, _LANES["AVX512"]))))


def _exponentials_of_onnxruntime(below: np.ndarray, bias: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a polynomial near 1, the whole exponents of two that it is to be scaled by, and two to that power."""
    whole, power = power_of_two(below, 12582912.0, bias)
    rest = fma(whole, f32(-1.42860677e-6), fma(whole, f32(-6.93145752e-1), below))
    factors = ("0x1.694p-10", "0x1.125edcp-7", "0x1.555b5ap-5", "0x1.55545p-3", "0x1.fffff6p-2", "0x1p+0", "0x1p+0")
    return polynomial(factors, rest), whole, power


def _of_xnnpack(x: np.ndarray) -> np.ndarray:
    numbers = exponentials_of_xnnpack(_below_greatest(x), ("-0x1.62e43p-1", "0x1.05c61p-29"))
    return _divided_by_xnnpack(numbers, _LANES["AVX2"])


def _of_xnnpack_wide(x: np.ndarray) -> np.ndarray:
    numbers = exponentials_of_xnnpack(_below_greatest(x), ("-0x1.62e4p-1", "-0x1.7f7d1cp-20"))
    return _divided_by_xnnpack(numbers, _LANES["AVX512"])


def _divided_by_xnnpack(numbers: np.ndarray, lanes: int) -> np.ndarray:
    """Return shares of the total as two sums of four vectors a turn find it."""
    turns = len(numbers) // (4 * lanes)
    of_turns = numbers[: turns * 4 * lanes].reshape(-1, 2, lanes, *numbers.shape[1:])
    first, second = (_lanes(of_turns[:, half].reshape(-1, *numbers.shape[1:]), lanes) for half in (0, 1))
    starts = [one + other for one, other in zip(first, second, strict=True)]
    sums = _lanes(numbers[turns * 4 * lanes :], lanes, starts)
    while len(sums) > 1:
        sums = _halved(sums)
    return flushed(_divided(numbers, sums[0]))


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


def _lanes(numbers: np.ndarray, lanes: int, starts: Sequence[Any] = ()) -> list[Any]:
    """Return the sums of every eighth or sixteenth number of a row, from what there is at the start."""
    starts = starts or (f32(0),) * lanes
    return [functools.reduce(np.add, numbers[lane::lanes], start) for lane, start in enumerate(starts)]


def _halved(sums: Sequence[Any]) -> list[Any]:
    """Return the sums of a vector's lower half with its upper half."""
    half = len(sums) // 2
    return [one + other for one, other in zip(sums[:half], sums[half:], strict=True)]


def _in_pairs(sums: Sequence[Any]) -> Any:
    """Return the sum of a vector, neighbours first."""
    while len(sums) > 1:
        sums = [one + other for one, other in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


def _divided(numbers: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return shares of the total, the axis of a row last."""
    return np.moveaxis(numbers * (f32(1) / total), 0, -1)


#: By a target's arithmetic and the widest vectors of the processor: the softmax over the last axis.
FUNCTIONS: Mapping[str, Mapping[str, Callable[[np.ndarray], np.ndarray]]] = MappingProxyType(
    {
        "mlas": {"AVX2": _of_onnxruntime, "AVX512": _of_onnxruntime_wide},
        "xnnpack": {"AVX2": _of_xnnpack, "AVX512": _of_xnnpack_wide},
    }
)
