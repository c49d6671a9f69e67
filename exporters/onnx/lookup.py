"""Functions of one tensor in an ``.onnx``: the float operator where its error cannot change an integer, else a lookup table.

A float operator between DequantizeLinear and QuantizeLinear takes a tenth of the time of a Gather from 256 integers (0.11 against
1.6 ms for 64 channels of 56 x 56), but its last bits depend on the machine. There are only 256 inputs: the export measures how
near each exact result is to the border between two integers, and writes the operator where no result is within its error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx

from qat.arithmetic import lookup
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .composed import largest_error, write_steps
from .writer import Writer

#: The largest error of a float32 operator, relative to the magnitude that :data:`_FLOAT` gives. Measured in ONNX Runtime 1.32
#: over [-12, 12]: 3.6e-7.
ERROR = 2.0**-20
#: The largest error that DequantizeLinear and QuantizeLinear add, in units of the output's scale: 256 times a few roundings of
#: 2^-24.
ROUNDING_ERROR = 2.0**-13

#: Writes a function as nodes, from the names of the input and the output, and returns the output's name.
WriteFunction = Callable[[Writer, Instruction, str, str], str]
#: From the inputs and the exact results, the magnitude that a float operator's error is relative to.
Magnitude = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _node(kind: str, *own: str, **attributes: float) -> WriteFunction:
    """Return the writer of a function that is one node, with ``attributes`` and the function's ``own``, by name."""

    def write(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
        return writer.node(kind, [x], y, instruction.name, **attributes, **{name: instruction.attrs[name] for name in own})

    return write


def _silu(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    return writer.node("Mul", [x, writer.node("Sigmoid", [x], f"{y}/sigmoid")], y, instruction.name)


def _gelu(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    """Write ``x / 2 * (1 + erf(x / sqrt(2)))``, which ONNX Runtime fuses, or ``x * sigmoid(sqrt(8 / pi) (x + 0.044715 x^3))``."""

    def number(name: str, value: float) -> str:
        return writer.constant(f"{instruction.name}.{name}", f32(value))

    if instruction.attrs["approximate"]:
        c = np.sqrt(8.0 / np.pi)
        cubic = writer.node("Mul", [writer.node("Mul", [x, x], f"{y}/square"), number("cubic", 0.044715 * c)], f"{y}/cubic")
        slope = writer.node("Add", [cubic, number("linear", c)], f"{y}/slope")
        gate = writer.node("Sigmoid", [writer.node("Mul", [slope, x], f"{y}/argument")], f"{y}/gate")
        return writer.node("Mul", [x, gate], y, instruction.name)
    erf = writer.node("Erf", [writer.node("Div", [x, number("root2", np.sqrt(2.0))], f"{y}/scaled")], f"{y}/erf")
    product = writer.node("Mul", [x, writer.node("Add", [erf, number("one", 1.0)], f"{y}/one_more")], f"{y}/double")
    return writer.node("Mul", [product, number("half", 0.5)], y, instruction.name)


def _clamp(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    limits = [(end, instruction.attrs[end]) for end in ("low", "high")]
    names = ["" if value is None else writer.constant(f"{instruction.name}.{end}", f32(value)) for end, value in limits]
    return writer.node("Clip", [x, *names], y, instruction.name)


def _square(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    return writer.node("Mul", [x, x], y, instruction.name)


def _unit(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    return 1.0 + np.abs(results)


def _input(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    return np.abs(inputs)


def _result(inputs: np.ndarray, results: np.ndarray) -> np.ndarray:
    return np.abs(results)


#: The float operators, by kind, and the magnitude that the error of each is relative to. Softplus and Mish are slower as float
#: operators than as a Gather. Of sqrt and rsqrt, whose domains rounding may leave, the float operators give NaN.
_FLOAT: dict[str, tuple[WriteFunction, Magnitude]] = {
    "sigmoid": (_node("Sigmoid"), _unit),
    "tanh": (_node("Tanh"), _unit),
    "silu": (_silu, _input),
    "gelu": (_gelu, _input),
    "hard_sigmoid": (_node("HardSigmoid", alpha=1 / 6, beta=0.5), _unit),
    "hard_swish": (_node("HardSwish"), _input),
    "leaky_relu": (_node("LeakyRelu", "alpha"), _result),
    "elu": (_node("Elu", "alpha"), _unit),
    "selu": (_node("Selu"), _unit),
    "exp": (_node("Exp"), _result),
    "abs": (_node("Abs"), _result),
    "neg": (_node("Neg"), _result),
    "square": (_square, _result),
    "clamp": (_clamp, _result),
    "erf": (_node("Erf"), _unit),
}


def float_is_exact(kind: str, attrs: Mapping[str, Any], x: Encoding, y: Encoding) -> bool:
    """Return whether a float32 operator that errs by less than :data:`ERROR` gives the integer of the table for each input.

    Args:
        kind: a function that has a float operator, or one that is composed.
        attrs: the function's attributes.
        x: the encoding of the input.
        y: the encoding of the output.
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
        error = largest_error(attrs["steps"], centres, _error) if kind == "composed" else _error(kind, attrs, centres, exact)
    return error is not None and bool((np.abs(scaled - border) > error / float(y.scale) + ROUNDING_ERROR).all())


def _error(kind: str, attrs: Mapping[str, Any], inputs: np.ndarray, results: np.ndarray) -> np.ndarray | None:
    """Return the largest error of a float operator for each input; None for a function without one."""
    return ERROR * _FLOAT[kind][1](inputs, results) if kind in _FLOAT else None


def _write_float(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    if instruction.kind == "composed":
        return write_steps(writer, instruction, x, y, _write_float)
    return _FLOAT[instruction.kind][0](writer, instruction, x, y)


def write_function(writer: Writer, instruction: Instruction) -> None:
    """Write a function of one tensor."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    kind, attrs = instruction.kind, instruction.attrs
    x, y = writer.program.encoding_of(source), writer.program.encoding_of(output)
    if (kind in _FLOAT or kind == "composed") and float_is_exact(kind, attrs, x, y):
        real = _write_float(writer, instruction, writer.dequantize_input(instruction), f"{instruction.name}/real")
        writer.node("QuantizeLinear", [real, *writer.scale_and_zero_point(output)], output)
        return
    table = writer.constant(f"{output}.table", lookup.stored_table(kind, attrs, x, y))
    index = writer.node("Cast", [source], f"{output}/index", to=onnx.TensorProto.INT32)
    writer.node("Gather", [table, index], output, instruction.name, axis=0)
