"""Functions of one tensor: in float64, and on the grid as a table of the output's integers, one for each integer of the input.

Every runtime and framework takes the integers from here, so that none of them needs the same ``exp`` as another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import hard_functions
from . import lookup_fixed_point as fixed_point
from .encoding import Encoding
from .expressions import ARITHMETIC, Steps, evaluate
from .grid import f32

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, "Self-Normalizing Neural Networks"


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _gelu(x: np.ndarray, approximate: bool) -> np.ndarray:
    if approximate:
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


def _clamp(x: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _power(x: np.ndarray, exponent: float) -> np.ndarray:
    return np.asarray((x if exponent == int(exponent) else np.maximum(x, 0.0)) ** exponent)


def _composed(x: np.ndarray, steps: Steps) -> np.ndarray:
    return np.asarray(evaluate(steps, x, {**FUNCTIONS, **ARITHMETIC, **_OF_SEVERAL}))


_OF_SEVERAL: dict[str, Callable[..., np.ndarray]] = {
    "minimum": np.minimum,
    "maximum": np.maximum,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "where": np.where,
}


#: Functions of one tensor, each a table of 256 integers, and their arguments' names.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "sigmoid": (),
    "tanh": (),
    "silu": (),
    "gelu": ("approximate",),  # whether by tanh
    "hard_sigmoid": (),  # relu6(x + 3) / 6
    "hard_swish": (),
    "leaky_relu": ("alpha",),
    "elu": ("alpha",),
    "selu": (),
    "softplus": (),
    "mish": (),
    "exp": (),
    "sqrt": (),
    "rsqrt": (),
    "abs": (),
    "neg": (),
    "square": (),
    "clamp": ("low", "high"),
    "erf": (),
    "log": (),
    "log1p": (),
    "expm1": (),
    "reciprocal": (),
    "power": ("exponent",),
    "composed": ("steps",),  # several of these, and sums and products with numbers: qat/arithmetic/expressions.py
}

#: The functions by kind; the arguments after the first are those of :data:`ARGUMENTS`. Where a function is not
#: defined (the root of a negative number), it has its value at the nearest number where it is: rounding may leave its domain.
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda x: x * _hard_sigmoid(x),
    "leaky_relu": lambda x, alpha: np.where(x > 0, x, alpha * x),
    "elu": _elu,
    "selu": lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "exp": np.exp,
    "sqrt": lambda x: np.sqrt(np.maximum(x, 0.0)),
    "rsqrt": lambda x: 1.0 / np.sqrt(np.maximum(x, 0.0)),
    "abs": np.abs,
    "neg": np.negative,
    "square": np.square,
    "clamp": _clamp,
    "erf": _erf,
    "log": lambda x: np.log(np.maximum(x, 0.0)),
    "log1p": lambda x: np.log1p(np.maximum(x, -1.0)),
    "expm1": np.expm1,
    "reciprocal": np.reciprocal,
    "power": _power,
    "composed": _composed,
}


def real(kind: str, attrs: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Return the function's values in float64; infinite where it has a pole or overflows."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(FUNCTIONS[kind](np.asarray(x, np.float64), *(attrs[name] for name in ARGUMENTS[kind])))


def _litert_hard_swish(x: Encoding, y: Encoding) -> np.ndarray:
    product = hard_functions.hard_swish(x, y, "xnnpack")
    return fixed_point.hard_swish(x, y) if product is None else product


#: Functions that a runtime's kernels compute otherwise, by arithmetic and kind. None: these encodings have no such kernel.
_KERNELS: dict[tuple[str, str], Callable[..., np.ndarray | None]] = {
    ("xnnpack", "leaky_relu"): fixed_point.leaky_relu,
    ("xnnpack", "hard_swish"): _litert_hard_swish,
    ("xnnpack", "hard_sigmoid"): lambda x, y: hard_functions.hard_sigmoid(x, y, "xnnpack"),
}


def table(kind: str, attrs: Mapping[str, Any], x: Encoding, y: Encoding, kernels: str = "mlas") -> np.ndarray:
    """Return the output on ``y``'s grid for each integer of ``x``, from ``qmin`` up: int64 of shape (qmax - qmin + 1,).

    ``clamp(round_half_even(float32(f(s_x q)) / float32(s_y)))``: the float function between a DequantizeLinear and a
    QuantizeLinear, but for the rounding of ``f`` itself. LiteRT's kernels make the same table, but for those of
    :mod:`qat.arithmetic.lookup_fixed_point` and :mod:`qat.arithmetic.hard_functions`.
    """
    kernel = _KERNELS.get((kernels, kind))
    values = None if kernel is None else kernel(x, y, **attrs)
    if values is not None:
        return np.clip(values, y.lo, y.hi).astype(np.int64)
    with np.errstate(over="ignore"):
        v = np.rint(real(kind, attrs, centres(x)).astype(f32) / f32(y.scale))
    return np.clip(v, y.lo, y.hi).astype(np.int64)


def slopes(kind: str, attrs: Mapping[str, Any], x: Encoding, y: Encoding) -> np.ndarray:
    """Return the gradient of the output's grid values by the input's, for each integer of ``x``: float32.

    The mean slope over the numbers that round to the integer, which is finite at poles and means something at kinks.
    """
    half = 0.5 * float(x.scale)
    with np.errstate(invalid="ignore"):
        rise = real(kind, attrs, centres(x) + half) - real(kind, attrs, centres(x) - half)
    return np.where(np.isfinite(rise), rise / float(y.scale), 0.0).astype(f32)


def stored_table(kind: str, attrs: Mapping[str, Any], x: Encoding, y: Encoding) -> np.ndarray:
    """Return the output's integers, zero point included, at the place of each integer of ``x`` modulo their number.

    That is the table that a Gather reads by the input's integers: a negative index counts from the end.
    """
    values = (table(kind, attrs, x, y) + y.zero_point).astype(y.dtype)
    return np.roll(values, x.qmin)


def centres(x: Encoding) -> np.ndarray:
    """Return the real value of each integer of an encoding."""
    return np.arange(x.lo, x.hi + 1) * float(x.scale)
