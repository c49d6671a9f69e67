"""Functions of one tensor in float32: whether a runtime's float arithmetic gives the integer of the table for each input.

ONNX Runtime's float operator between DequantizeLinear and QuantizeLinear takes a tenth of the time of a Gather from 256 integers,
and LiteRT's kernel makes a table of its own, in float32, when it loads a file. The last bits of both depend on the machine. There
are only 256 inputs: the proof measures how near each exact result is to the border between two integers, and holds where no
result is within the arithmetic's error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import lookup
from .encoding import Encoding
from .expressions import Steps
from .grid import f32

#: The largest error of a float32 operator, relative to the magnitude that :data:`MAGNITUDES` gives. Measured in ONNX Runtime 1.32
#: over [-12, 12]: 3.6e-7.
ERROR = 2.0**-20
#: The largest error that DequantizeLinear and QuantizeLinear add, in units of the output's scale: 256 times a few roundings of
#: 2^-24.
ROUNDING_ERROR = 2.0**-13

#: From the inputs and the exact results, the magnitude that a float operator's error is relative to.
Magnitude = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _unit(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    return 1.0 + np.abs(results)


def _input(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    return np.abs(inputs)


def _result(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    return np.abs(results)


def _exponential(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    """Return the results as many times as the rounding of an input counts in them."""
    return np.maximum(np.abs(inputs), 1.0) * results


#: The functions that have a float form, each with the magnitude that its error is relative to.
MAGNITUDES: dict[str, Magnitude] = {
    "sigmoid": _unit,
    "tanh": _unit,
    "silu": _input,
    "gelu": _input,
    "hard_sigmoid": _unit,
    "hard_swish": _input,
    "leaky_relu": _result,
    "elu": _unit,
    "selu": _unit,
    "softplus": _unit,
    "mish": _input,
    "exp": _exponential,
    "sqrt": _result,
    "abs": _result,
    "neg": _result,
    "square": _result,
    "clamp": _result,
    "erf": _unit,
}


@dataclass(frozen=True)
class _Arithmetic:
    """How far float32 leads from the exact results.

    Attributes:
        error: of a function, relative to the magnitude of ``magnitudes``.
        rounding: of the steps before and after it, in units of the output's scale.
        magnitudes: of the functions that the runtime computes in float, by kind.
    """

    error: float
    rounding: float
    magnitudes: Mapping[str, Magnitude]


#: By the arithmetic of a target. LiteRT's kernels round the input, one to three operators, the inverse of the output's scale and
#: the product with it; a GELU is a sum that cancels, and rounds five times.
_ARITHMETICS = {
    "mlas": _Arithmetic(ERROR, ROUNDING_ERROR, MAGNITUDES),
    "xnnpack": _Arithmetic(
        2.0**-23,
        2.0**-15,
        {
            "sigmoid": _unit,
            "tanh": _unit,
            "elu": _unit,
            "gelu": lambda inputs, results: 4.0 * np.abs(inputs),
            "exp": lambda inputs, results: 2.0 * _exponential(inputs, results),
        },
    ),
}

#: The rounding of one float32 operator, twice over.
_ROUNDING = 2.0**-23
#: The functions whose float operators are a product, a sum and limits: no more than four roundings.
_ARITHMETIC = ("hard_sigmoid", "hard_swish", "leaky_relu", "abs", "neg", "square", "clamp")
#: The operators of two operands that a composed function may hold.
BINARY = ("add", "mul", "div", "minimum", "maximum")


def in_float(kind: str, kernels: str) -> bool:
    """Return whether a runtime may compute a function in float, by the arithmetic of its kernels."""
    return kind in _ARITHMETICS[kernels].magnitudes or (kind == "composed" and kernels == "mlas")


def float_is_exact(kind: str, attrs: Mapping[str, Any], x: Encoding, y: Encoding, kernels: str = "mlas") -> bool:
    """Return whether a runtime's float32 arithmetic gives the integer of the table for each input.

    Args:
        kind: a function of one tensor; one without a float form is never exact.
        attrs: the function's attributes.
        x: the encoding of the input.
        y: the encoding of the output.
        kernels: the runtime's arithmetic.
    """
    centres = lookup.centres(x)
    exact = lookup.real(kind, attrs, centres)
    with np.errstate(over="ignore"):
        finite = np.isfinite(exact.astype(f32)).all()
    if not finite:
        return False
    scaled = exact / float(y.scale)
    border = np.clip(np.floor(scaled) + 0.5, y.lo + 0.5, y.hi - 0.5)
    with np.errstate(all="ignore"):
        error = _of_steps(attrs["steps"], centres) if kind == "composed" else _of_function(kind, centres, exact, kernels)
    rounding = _ARITHMETICS[kernels].rounding
    return error is not None and bool((np.abs(scaled - border) > error / float(y.scale) + rounding).all())


def arguments_of(kind: str, operands: list[object]) -> dict[str, object]:
    """Return the attributes of a composed function's step by name."""
    return dict(zip(lookup.ARGUMENTS[kind], operands, strict=True))


def _of_function(kind: str, inputs: np.ndarray, results: np.ndarray, kernels: str = "mlas") -> np.ndarray | None:
    """Return the largest error of a float operator for each input; None for a function without one."""
    known = _ARITHMETICS[kernels]
    return known.error * known.magnitudes[kind](inputs, results) if kind in known.magnitudes else None


def _of_steps(steps: Steps, x: np.ndarray) -> np.ndarray | None:
    """Return a bound on the error of each result of a composed function; None where a step has no float operator.

    The error of each step is its own, and that of its operands as far as the step passes it on.
    """
    values: dict[str, tuple[np.ndarray, np.ndarray]] = {"x": (x, _ROUNDING * np.abs(x))}
    made = values["x"]
    for index, (kind, *operands) in enumerate(steps):
        if kind in BINARY:
            (a, da), (b, db) = (values[o] if isinstance(o, str) else (np.full_like(x, o), np.zeros_like(x)) for o in operands)
            made = _of_two(kind, a, da, b, db)
        else:
            found = _of_one(kind, operands[1:], *values[operands[0]]) if kind in lookup.ARGUMENTS else None
            if found is None:
                return None
            made = found
        values[f"#{index}"] = made
    return made[1]


def _of_two(kind: str, a: np.ndarray, da: np.ndarray, b: np.ndarray, db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if kind in ("minimum", "maximum"):
        return (np.minimum if kind == "minimum" else np.maximum)(a, b), np.maximum(da, db)
    if kind == "add":
        y, error = a + b, da + db
    elif kind == "mul":
        y, error = a * b, np.abs(a) * db + np.abs(b) * da + da * db
    else:
        y, least = a / b, np.abs(b) - db
        error = np.where(least > 0, (da + np.abs(y) * db) / np.where(least > 0, least, 1.0), np.inf)
    return y, error + _ROUNDING * np.abs(y)


def _of_one(kind: str, arguments: list[object], a: np.ndarray, da: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    attrs = arguments_of(kind, arguments)
    y = lookup.real(kind, attrs, a)
    own = _of_function(kind, a, y)
    if own is None:
        return None
    if kind in _ARITHMETIC:
        own = 4.0 * _ROUNDING * np.maximum(np.abs(a), np.abs(y))
    passed = np.maximum(*(np.abs(lookup.real(kind, attrs, a + side) - y) for side in (da, -da)))
    return y, own + 2.0 * passed
