"""Composed functions in an ``.onnx``: each step as a node, and ``x sigmoid(a x)``, of which ONNX Runtime has one, as that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qat.arithmetic.expressions import Steps
from qat.arithmetic.float_functions import arguments_of
from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .writer import MICROSOFT, Writer

#: The operators of two operands.
_BINARY = {"add": "Add", "mul": "Mul", "div": "Div", "minimum": "Min", "maximum": "Max"}


def write_steps(
    writer: Writer, instruction: Instruction, x: str, y: str, write: Callable[[Writer, Instruction, str, str], str]
) -> str:
    """Write the steps as nodes, each function by ``write``; return the output's name."""
    steps: Steps = instruction.attrs["steps"]
    last = f"#{len(steps) - 1}"
    values: dict[str, str] = {"x": x}

    def value(operand: str) -> str:
        """Return the tensor of an operand, whose node is written where it is read first."""
        if operand not in values:
            index = int(operand[1:])
            values[operand] = step(index, y if operand == last else f"{y}/{index}")
        return values[operand]

    def step(index: int, output: str) -> str:
        name, (kind, *operands) = f"{instruction.name}/{index}", steps[index]
        gate = _scaled_gate(steps, index)
        if gate is not None:
            source, alpha = gate
            return writer.node("QuickGelu", [value(source)], output, name, domain=MICROSOFT, alpha=alpha)
        if kind in _BINARY:
            names = [
                value(o) if isinstance(o, str) else writer.constant(f"{instruction.name}.{index}.{place}", f32(o))
                for place, o in enumerate(operands)
            ]
            return writer.node(_BINARY[kind], names, output, name)
        attrs = arguments_of(kind, operands[1:])
        return write(writer, replace(instruction, kind=kind, attrs=attrs, name=name), value(str(operands[0])), output)

    return value(last)


def _scaled_gate(steps: Steps, index: int) -> tuple[str, float] | None:
    """Return ``x`` and ``a`` of a step that ends ``x sigmoid(a x)``, the GELU of CLIP; None for another step.

    ONNX Runtime's QuickGelu computes the same product, sigmoid and product.
    """
    kind, *operands = steps[index]
    if kind != "mul" or not all(isinstance(o, str) for o in operands):
        return None
    for source, gate in (operands, operands[::-1]):
        scaled = [o for inner in _operands(steps, gate, "sigmoid") for o in _operands(steps, inner, "mul")]
        numbers = [o for o in scaled if not isinstance(o, str)]
        if source in scaled and len(numbers) == 1:
            return source, float(numbers[0])
    return None


def _operands(steps: Steps, operand: str, kind: str) -> tuple[Any, ...]:
    """Return the operands of the step that an operand is the result of; none where that is of another kind."""
    step = ("x",) if operand == "x" else steps[int(operand[1:])]
    return step[1:] if step[0] == kind else ()
