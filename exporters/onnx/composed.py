"""Composed functions in an ``.onnx``: each step as a node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qat.arithmetic.float_functions import arguments_of
from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .writer import Writer

#: The operators of two operands.
_BINARY = {"add": "Add", "mul": "Mul", "div": "Div", "minimum": "Min", "maximum": "Max"}


def write_steps(
    writer: Writer, instruction: Instruction, x: str, y: str, write: Callable[[Writer, Instruction, str, str], str]
) -> str:
    """Write the steps as nodes, each function by ``write``; return the output's name."""
    values: dict[str, str] = {"x": x}
    steps = instruction.attrs["steps"]
    for index, (kind, *operands) in enumerate(steps):
        output = y if index == len(steps) - 1 else f"{y}/{index}"
        if kind in _BINARY:
            names = [
                values[o] if isinstance(o, str) else writer.constant(f"{instruction.name}.{index}.{place}", f32(o))
                for place, o in enumerate(operands)
            ]
            writer.node(_BINARY[kind], names, output, f"{instruction.name}/{index}")
        else:
            attrs = arguments_of(kind, operands[1:])
            step = replace(instruction, kind=kind, attrs=attrs, name=f"{instruction.name}/{index}")
            write(writer, step, values[operands[0]], output)
        values[f"#{index}"] = output
    return y
