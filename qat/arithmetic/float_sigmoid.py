"""The float sigmoid, SiLU and tanh of both runtimes on an x86 processor, with AVX2 or with AVX512, bit for bit.

On other processors the runtimes have other kernels.

- ONNX Runtime: quotients of two polynomials in FMA3, ``MlasLogisticKernel`` and ``MlasTanhKernel`` of core/mlas/lib, with AVX512
  too.
- LiteRT's delegate: XNNPACK's src/f32-vsigmoid, an exponential over itself and 1: avx2-rr1-p5-div, and
  avx512f-rr2-lut32-p2-perm2-scalef-div, where a table has the powers of two of 32nds; src/f32-vtanh, fma3-rational-9-8-div and
  avx512f-rational-9-8-div, which are the same arithmetic.

A SiLU is the product of a number and its sigmoid in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from .float_softmax import exponentials_of_xnnpack
from .fma import flushed, fma, number, polynomial, times_power_of_two
from .grid import f32

_ByKind: TypeAlias = Mapping[str, Callable[[np.ndarray], np.ndarray]]
#: Two to the power of 0 to 31 32nds, rounded.
_POWERS_OF_32NDS = np.exp2(np.arange(32) / 32).astype(f32)


def _sigmoid_of_onnxruntime(x: np.ndarray) -> np.ndarray:
    above = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01)
    below = (
        6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03, 1.16817656904453e-01,
        9.93151921023180e-01,
    )  # fmt: skip
    return np.clip(_odd_quotient(x, 18.0, above, below) + f32(0.5), f32(0), f32(1))


def _tanh_of_onnxruntime(x: np.ndarray) -> np.ndarray:
    above = (
        -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
        6.37261928875436e-04, 4.89352455891786e-03,
    )  # fmt: skip
    return _odd_quotient(x, 9.0, above, (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03))


def _sigmoid_of_xnnpack(x: np.ndarray) -> np.ndarray:
    return _over_itself_and_one(x, exponentials_of_xnnpack(-np.abs(x), ("-0x1.62e43p-1",)))


def _sigmoid_of_xnnpack_wide(x: np.ndarray) -> np.ndarray:
    below, magic = np.maximum(-np.abs(x), f32(-200)), number("0x1.8p18")  # the sigmoid is 0 long before
    shifted = fma(below, f32(1.44269504088896341), magic)  # rounds to whole 32nds
    whole, of_32nds = shifted - magic, _POWERS_OF_32NDS[shifted.view(np.int32) & 31]
    rest = fma(whole, number("0x1.05c61p-29"), fma(whole, number("-0x1.62e43p-1"), below))
    near_one = fma(rest * of_32nds, fma(rest, f32(0.5), number("0x1.0000f6p+0")), of_32nds)
    return _over_itself_and_one(x, flushed(times_power_of_two(near_one, np.floor(whole))))


def _over_itself_and_one(x: np.ndarray, exponentials: np.ndarray) -> np.ndarray:
    """Return the sigmoid of ``x`` from the exponentials of its size with a minus."""
    of_negative = flushed(exponentials / (exponentials + f32(1)))
    return np.where(x < 0, of_negative, f32(1) - of_negative)


def _tanh_of_xnnpack(x: np.ndarray) -> np.ndarray:
    above = (1.4248920266e-08, 2.1235626264e-05, 3.5330520477e-03, 1.3412411511e-01, 1.0)
    below = (8.1365948290e-07, 3.3472978976e-04, 2.6018999517e-02, 4.6745735407e-01, 1.0)
    return flushed(_odd_quotient(x, 7.9807181358, above, below))


def _times_itself(sigmoid: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Return the SiLU that a sigmoid makes."""
    return lambda x: x * sigmoid(x)


def _functions(sigmoid: Callable[[np.ndarray], np.ndarray], tanh: Callable[[np.ndarray], np.ndarray]) -> _ByKind:
    return {"sigmoid": sigmoid, "tanh": tanh, "silu": _times_itself(sigmoid)}


def _odd_quotient(x: np.ndarray, limit: float, above: Sequence[float], below: Sequence[float]) -> np.ndarray:
    """Return ``x`` times a polynomial of its square over another, ``x`` within limits."""
    x = np.clip(x, f32(-limit), f32(limit))
    square = x * x
    found: np.ndarray = polynomial(above, square) * x / polynomial(below, square)
    return found


_OF_ONNXRUNTIME = _functions(_sigmoid_of_onnxruntime, _tanh_of_onnxruntime)
#: By a target's arithmetic and the widest vectors of the processor: the functions by kind.
FUNCTIONS: Mapping[str, Mapping[str, _ByKind]] = MappingProxyType(
    {
        "mlas": {"AVX2": _OF_ONNXRUNTIME, "AVX512": _OF_ONNXRUNTIME},
        "xnnpack": {
            "AVX2": _functions(_sigmoid_of_xnnpack, _tanh_of_xnnpack),
            "AVX512": _functions(_sigmoid_of_xnnpack_wide, _tanh_of_xnnpack),
        },
    }
)
