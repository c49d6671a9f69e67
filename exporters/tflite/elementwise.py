"""Sums, products and activations that no kernel absorbs, in a ``.tflite``."""

from __future__ import annotations

from qat.program.program import Instruction

from .writer import ACTIVATIONS, Op, Writer


def write_add(writer: Writer, instruction: Instruction) -> None:
    """Write an ADD."""
    # Of int16, the operator takes any scale, not powers of two only.
    _write_binary(writer, instruction, Op.ADD, "AddOptions", potScaleInt16=False)


def write_mul(writer: Writer, instruction: Instruction) -> None:
    """Write a MUL."""
    _write_binary(writer, instruction, Op.MUL, "MulOptions")


def write_minimum(writer: Writer, instruction: Instruction) -> None:
    """Write a MINIMUM."""
    _write_extreme(writer, instruction, Op.MINIMUM)


def write_maximum(writer: Writer, instruction: Instruction) -> None:
    """Write a MAXIMUM."""
    _write_extreme(writer, instruction, Op.MAXIMUM)


def _write_extreme(writer: Writer, instruction: Instruction, code: int) -> None:
    """Write the smaller or the greater of two tensors; inputs and output have one scale."""
    inputs = [writer.integer_tensor(name) for name in instruction.inputs]
    writer.operator(code, inputs, writer.integer_tensor(instruction.outputs[0]), 2, "MaximumMinimumOptions")


def _write_binary(writer: Writer, instruction: Instruction, code: int, options: str, **fields: object) -> None:
    inputs = [writer.integer_tensor(name) for name in instruction.inputs]
    activation = ACTIVATIONS[instruction.activation]
    output = writer.integer_tensor(instruction.outputs[0])
    writer.operator(code, inputs, output, 2, options, fusedActivationFunction=activation, **fields)


def write_relu(writer: Writer, instruction: Instruction) -> None:
    """Write a RELU."""
    _write_unary(writer, instruction, Op.RELU)


def write_relu6(writer: Writer, instruction: Instruction) -> None:
    """Write a RELU6."""
    _write_unary(writer, instruction, Op.RELU6)


def _write_unary(writer: Writer, instruction: Instruction, code: int) -> None:
    source, output = (writer.integer_tensor(name) for name in (instruction.inputs[0], instruction.outputs[0]))
    writer.operator(code, [source], output, 2)
