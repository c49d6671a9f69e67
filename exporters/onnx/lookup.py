"""Functions of one tensor in an ``.onnx``: the float operator where its error cannot change an integer, else a look-up.

A float operator between DequantizeLinear and QuantizeLinear takes a tenth of the time of a Gather from 256 integers (0.11 against
1.6 ms for 64 channels of 56 x 56), but its last bits depend on the machine. There are only 256 inputs: the export looks how near
each exact result is to the border between two integers, and writes the operator where none is within its error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from qat.arithmetic import lookup as functions
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.numerics import f32
from qat.graph.kinds import FUNCTIONS
from qat.program.program import Instruction

#: Most that a float32 operator may err, relative to its magnitude below; measured in ONNX Runtime 1.32 over [-12, 12]: 3.6e-7.
ERROR = 2.0**-20
#: Most that DequantizeLinear and QuantizeLinear may add, in steps of the output: 256 times a few roundings of 2^-24.
STEP_ERROR = 2.0**-13

#: Writes a function of (writer, step, input, output); returns the output.
Write = Callable[[Any, Instruction, str, str], str]


def _one(kind: str, *named: str, **attributes: Any) -> Write:
    """Return the writer of a function that is one node, with attributes given, and others ``named`` of the function's own."""
    return lambda w, step, x, y: w.node(kind, [x], y, step.name, **attributes, **{name: step.attrs[name] for name in named})


def _silu(w: Any, step: Instruction, x: str, y: str) -> str:
    return str(w.node("Mul", [x, w.node("Sigmoid", [x], f"{y}/sigmoid")], y, step.name))


def _gelu(w: Any, step: Instruction, x: str, y: str) -> str:
    """Write ``x / 2 * (1 + erf(x / sqrt(2)))``, which ONNX Runtime fuses, or ``x * sigmoid(sqrt(8 / pi) (x + 0.044715 x^3))``."""

    def number(name: str, value: float) -> str:
        return str(w.constant(f"{step.name}.{name}", f32(value)))

    if step.attrs["approximate"]:
        c = np.sqrt(8.0 / np.pi)
        cubic = w.node("Mul", [w.node("Mul", [x, x], f"{y}/square"), number("cubic", 0.044715 * c)], f"{y}/cubic")
        slope = w.node("Add", [cubic, number("linear", c)], f"{y}/slope")
        gate = w.node("Sigmoid", [w.node("Mul", [slope, x], f"{y}/argument")], f"{y}/gate")
        return str(w.node("Mul", [x, gate], y, step.name))
    erf = w.node("Erf", [w.node("Div", [x, number("root2", np.sqrt(2.0))], f"{y}/scaled")], f"{y}/erf")
    product = w.node("Mul", [x, w.node("Add", [erf, number("one", 1.0)], f"{y}/one_more")], f"{y}/double")
    return str(w.node("Mul", [product, number("half", 0.5)], y, step.name))


def _clamp(w: Any, step: Instruction, x: str, y: str) -> str:
    limits = [(end, step.attrs[end]) for end in ("low", "high")]
    names = ["" if value is None else w.constant(f"{step.name}.{end}", f32(value)) for end, value in limits]
    return str(w.node("Clip", [x, *names], y, step.name))


def _unit(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    return 1.0 + np.abs(f)


def _input(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    return np.abs(x)


def _result(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    return np.abs(f)


#: The float operators, by kind, and the magnitude that their error is relative to. Softplus and Mish are slower there than a
#: Gather; sqrt and rsqrt have no number where rounding left their domain.
_FLOAT: dict[str, tuple[Write, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "sigmoid": (_one("Sigmoid"), _unit),
    "tanh": (_one("Tanh"), _unit),
    "silu": (_silu, _input),
    "gelu": (_gelu, _input),
    "hard_sigmoid": (_one("HardSigmoid", alpha=1 / 6, beta=0.5), _unit),
    "hard_swish": (_one("HardSwish"), _input),
    "leaky_relu": (_one("LeakyRelu", "alpha"), _result),
    "elu": (_one("Elu", "alpha"), _unit),
    "selu": (_one("Selu"), _unit),
    "exp": (_one("Exp"), _result),
    "abs": (_one("Abs"), _result),
    "neg": (_one("Neg"), _result),
    "square": (lambda w, step, x, y: w.node("Mul", [x, x], y, step.name), _result),
    "clamp": (_clamp, _result),
}


def float_is_exact(kind: str, attrs: Any, x: Encoding, y: Encoding) -> bool:
    """Return whether a float32 operator that errs by less than :data:`ERROR` gives the table's integer for each input."""
    centres = functions.centres(x)
    exact = functions.real(kind, attrs, centres)
    with np.errstate(over="ignore"):
        finite = np.isfinite(exact.astype(f32)).all()
    if not finite:
        return False
    steps = exact / float(y.scale)
    border = np.clip(np.floor(steps) + 0.5, y.lo + 0.5, y.hi - 0.5)
    _, magnitude = _FLOAT[kind]
    error = ERROR * magnitude(centres, exact) / float(y.scale) + STEP_ERROR
    return bool((np.abs(steps - border) > error).all())


def _function(w: Any, step: Instruction) -> None:
    output = step.outputs[0]
    x, y = w.encoding(step.inputs[0]), w.encoding(output)
    if step.kind in _FLOAT and float_is_exact(step.kind, step.attrs, x, y):
        write, _ = _FLOAT[step.kind]
        real = write(w, step, w.real(step), f"{step.name}/real")
        w.node("QuantizeLinear", [real, *w.grid(output)], output)
        return
    table = w.constant(f"{output}.table", functions.stored_table(step.kind, step.attrs, x, y))
    index = w.node("Cast", [step.inputs[0]], f"{output}/index", to=onnx.TensorProto.INT32)
    w.node("Gather", [table, index], output, step.name, axis=0)


OPERATORS: dict[str, Callable[[Any, Instruction], None]] = dict.fromkeys(FUNCTIONS, _function)
