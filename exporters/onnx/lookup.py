"""Functions of one tensor in an ``.onnx``: sums and products of integers, a float operator, or a lookup table.

A float operator stands where its error cannot change an integer. Hard swish and hard sigmoid are a product and a sum where these
give the same integers.

A Gather from 256 integers takes ten times as long as a float operator between DequantizeLinear and QuantizeLinear.
:func:`qat.calibration.clear_borders.clear_borders` moves scales so that the proof holds; tables are left where scales still move.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from qat.arithmetic import lookup
from qat.arithmetic.float_functions import float_is_exact
from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .composed import write_steps
from .hard_functions import hard_function_is_exact, write_hard_function
from .kept_integers import keeps_integers, write_kept
from .writer import MICROSOFT, Writer

#: Writes a function as nodes, from the names of the input and the output, and returns the output's name.
WriteFunction = Callable[[Writer, Instruction, str, str], str]


def _node(kind: str, *own: str, domain: str | None = None, **attributes: float) -> WriteFunction:
    """Return the writer of a function that is one node, with ``attributes`` and the function's ``own``, by name."""

    def write(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
        given = attributes | {name: instruction.attrs[name] for name in own}
        return writer.node(kind, [x], y, instruction.name, domain=domain, **given)

    return write


def _gelu(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    kind = "FastGelu" if instruction.attrs["approximate"] else "Gelu"
    return writer.node(kind, [x], y, instruction.name, domain=MICROSOFT)


def _softplus(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    """Write ``relu(x) + log(1 + exp(-|x|))``: ONNX Runtime's Softplus computes one number at a time."""
    small = writer.node("Exp", [writer.node("Neg", [writer.node("Abs", [x], f"{y}/abs")], f"{y}/neg")], f"{y}/exp")
    sum_ = writer.node("Add", [small, _number(writer, instruction, "one", 1.0)], f"{y}/one_more")
    return writer.node(
        "Add", [writer.node("Relu", [x], f"{y}/relu"), writer.node("Log", [sum_], f"{y}/log")], y, instruction.name
    )


def _mish(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    """Write ``x n / (n + 2)`` with ``n = e (e + 2)``, ``e = exp(min(x, 20))``, which is ``x tanh(softplus(x))``."""
    two = _number(writer, instruction, "two", 2.0)
    limited = writer.node("Min", [x, _number(writer, instruction, "limit", 20.0)], f"{y}/limited")
    e = writer.node("Exp", [limited], f"{y}/exp")
    n = writer.node("Mul", [e, writer.node("Add", [e, two], f"{y}/two_more")], f"{y}/n")
    gate = writer.node("Div", [n, writer.node("Add", [n, two], f"{y}/n_two_more")], f"{y}/gate")
    return writer.node("Mul", [x, gate], y, instruction.name)


def _clamp(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    limits = [(end, instruction.attrs[end]) for end in ("low", "high")]
    names = ["" if value is None else _number(writer, instruction, end, value) for end, value in limits]
    return writer.node("Clip", [x, *names], y, instruction.name)


def _square(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    return writer.node("Mul", [x, x], y, instruction.name)


def _sqrt(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    return writer.node("Sqrt", [writer.node("Relu", [x], f"{y}/relu")], y, instruction.name)


def _number(writer: Writer, instruction: Instruction, name: str, value: float) -> str:
    return writer.constant(f"{instruction.name}.{name}", f32(value))


#: The float operators of the functions in :data:`qat.arithmetic.float_functions.MAGNITUDES`, by kind.
_FLOAT: dict[str, WriteFunction] = {
    "sigmoid": _node("Sigmoid"),
    "tanh": _node("Tanh"),
    "silu": _node("QuickGelu", domain=MICROSOFT, alpha=1.0),
    "gelu": _gelu,
    "hard_sigmoid": _node("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_swish": _node("HardSwish"),
    "leaky_relu": _node("LeakyRelu", "alpha"),
    "elu": _node("Elu", "alpha"),
    "selu": _node("Selu"),
    "softplus": _softplus,
    "mish": _mish,
    "exp": _node("Exp"),
    "sqrt": _sqrt,
    "abs": _node("Abs"),
    "neg": _node("Neg"),
    "square": _square,
    "clamp": _clamp,
    "erf": _node("Erf"),
}


def _write_float(writer: Writer, instruction: Instruction, x: str, y: str) -> str:
    if instruction.kind == "composed":
        return write_steps(writer, instruction, x, y, _write_float)
    return _FLOAT[instruction.kind](writer, instruction, x, y)


def write_function(writer: Writer, instruction: Instruction) -> None:
    """Write a function of one tensor."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    kind, attrs = instruction.kind, instruction.attrs
    x, y = writer.program.encoding_of(source), writer.program.encoding_of(output)
    if keeps_integers(lookup.table(kind, attrs, x, y), x, y):
        write_kept(writer, instruction)
        return
    if hard_function_is_exact(kind, x, y):
        write_hard_function(writer, instruction)
        return
    if float_is_exact(kind, attrs, x, y):
        real = _write_float(writer, instruction, writer.dequantize_input(instruction), f"{instruction.name}/real")
        writer.node("QuantizeLinear", [real, *writer.scale_and_zero_point(output)], output)
        return
    table = writer.constant(f"{output}.table", lookup.stored_table(kind, attrs, x, y))
    index = writer.node("Cast", [source], f"{output}/index", to=onnx.TensorProto.INT32)
    writer.node("Gather", [table, index], output, instruction.name, axis=0)
