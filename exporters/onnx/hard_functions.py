"""Hard swish and hard sigmoid in an ``.onnx`` as a product and a sum of integers: :mod:`qat.arithmetic.hard_functions`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qat.arithmetic import lookup
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.arithmetic.hard_functions import HALF, IN_INTEGERS, gate_of, limits_of_gate, sixth_of
from qat.program.program import Instruction

from .writer import Writer


def hard_function_is_exact(kind: str, x: Encoding, y: Encoding) -> bool:
    """Return whether QLinearMul or QLinearAdd gives the integer of the table for each input; other kinds have no such form."""
    if kind not in IN_INTEGERS:
        return False
    found = IN_INTEGERS[kind](x, y, "mlas")
    return found is not None and np.array_equal(found, lookup.table(kind, {}, x, y))


def write_hard_function(writer: Writer, instruction: Instruction) -> None:
    """Write the product or the sum: a DequantizeLinear reads the same integers under another scale, and is fused."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    x = writer.program.encoding_of(source)
    if instruction.kind == "hard_sigmoid":
        half = writer.dequantize_constant(f"{output}.half", np.asarray(HALF[0], x.dtype), np.asarray(HALF[1]))
        limited = replace(instruction, clamp=limits_of_gate(writer.program.encoding_of(output)))
        writer.operator(limited, "Add", [_dequantize(writer, source, f"{output}/sixth", sixth_of(x)), half])
        return
    gate = gate_of(x)
    assert gate is not None
    limits, integers = limits_of_gate(gate), source
    if limits != (x.qmin, x.qmax):
        integers = f"{output}/limited"
        writer.clip(source, integers, x.dtype, limits, f"{output}/limits")
    operands = [writer.dequantize_input(instruction), _dequantize(writer, integers, f"{output}/gate", gate)]
    writer.operator(instruction, "Mul", operands)


def _dequantize(writer: Writer, integers: str, name: str, encoding: Encoding) -> str:
    scale = writer.constant(f"{name}.scale", np.asarray(encoding.scale, f32))
    zero_point = writer.constant(f"{name}.zero_point", np.asarray(encoding.zero_point, encoding.dtype))
    return writer.node("DequantizeLinear", [integers, scale, zero_point], f"{name}/real")
