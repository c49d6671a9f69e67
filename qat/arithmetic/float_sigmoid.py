"""The float sigmoid and tanh of both runtimes on an x86 processor with AVX2 and without AVX512, bit for bit.

On other processors the runtimes have other kernels.

- ONNX Runtime: quotients of two polynomials in FMA3, ``MlasLogisticKernel`` and ``MlasTanhKernel`` of core/mlas/lib.
- LiteRT's delegate: XNNPACK's src/f32-vsigmoid, avx2-rr1-p5-div, an exponential over itself and 1; src/f32-vtanh,
  fma3-rational-9-8-div.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from .float_softmax import exponentials_of_xnnpack
from .fma import flushed, polynomial
from .grid import f32


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
    exponentials = exponentials_of_xnnpack(-np.abs(x), ("-0x1.62e43p-1",))
    of_negative = flushed(exponentials / (exponentials + f32(1)))
    return np.where(x < 0, of_negative, f32(1) - of_negative)


def _tanh_of_xnnpack(x: np.ndarray) -> np.ndarray:
    above = (1.4248920266e-08, 2.1235626264e-05, 3.5330520477e-03, 1.3412411511e-01, 1.0)
    below = (8.1365948290e-07, 3.3472978976e-04, 2.6018999517e-02, 4.6745735407e-01, 1.0)
    return flushed(_odd_quotient(x, 7.9807181358, above, below))


def _odd_quotient(x: np.ndarray, limit: float, above: Sequence[float], below: Sequence[float]) -> np.ndarray:
    """Return ``x`` times a polynomial of its square over another, ``x`` within limits."""
    x = np.clip(x, f32(-limit), f32(limit))
    square = x * x
    found: np.ndarray = polynomial(above, square) * x / polynomial(below, square)
    return found


#: By a target's arithmetic: the functions by kind.
FUNCTIONS: Mapping[str, Mapping[str, Callable[[np.ndarray], np.ndarray]]] = MappingProxyType(
    {
        "mlas": {"sigmoid": _sigmoid_of_onnxruntime, "tanh": _tanh_of_onnxruntime},
        "xnnpack": {"sigmoid": _sigmoid_of_xnnpack, "tanh": _tanh_of_xnnpack},
    }
)
