"""Sums, products and activations that no kernel absorbs, in a ``.tflite``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.arithmetic.xnnpack import adds
from qat.program.program import Instruction

from .writer import ACTIVATIONS, Op, Writer


def write_add(writer: Writer, instruction: Instruction) -> None:
    """Write an ADD.

    Where the delegate does not take an addition, TFLite's own kernel adds a single number to a row by vectors that cut off what
    other forms of it round (``AddScalarBroadcast``, optimized/integer_ops/add.h). A constant that it would add so becomes a row.
    """
    inputs = [writer.integer_tensor(name) for name in instruction.inputs]
    output = writer.program.encoding_of(instruction.outputs[0])
    scales = [writer.program.encoding_of(name).scale for name in instruction.inputs]
    if output.bits == 8 and not adds(*(np.float32(scale) / np.float32(output.scale) for scale in scales)):
        inputs = [
            _as_row(writer, name, other) for name, other in zip(instruction.inputs, reversed(instruction.inputs), strict=True)
        ]
    # Of int16, the operator takes any scale, not powers of two only.
    _write_binary(writer, instruction, Op.ADD, "AddOptions", inputs, potScaleInt16=False)


def _as_row(writer: Writer, name: str, other: str) -> str:
    """Return the tensor of an operand: of a constant that is one number for each row of the ``other``, one that repeats it."""
    constants = {i.outputs[0]: i.weight for i in writer.program.instructions if i.kind == "constant"}
    shape, length = writer.program.values[name].shape, (writer.program.values[other].shape or (1,))[-1]
    if name not in constants or length in (None, 1) or (shape or (1,))[-1] != 1:
        return writer.integer_tensor(name)
    encoding, integers = writer.program.encoding_of(name), np.asarray(constants[name])
    row = np.broadcast_to(integers, (*integers.shape[:-1], length))
    return writer.add_tensor(f"{name}.row", row.shape, encoding.dtype, encoding.scale, encoding.zero_point, data=row)


def write_mul(writer: Writer, instruction: Instruction) -> None:
    """Write a MUL."""
    inputs = [writer.integer_tensor(name) for name in instruction.inputs]
    _write_binary(writer, instruction, Op.MUL, "MulOptions", inputs)


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


def _write_binary(
    writer: Writer, instruction: Instruction, code: int, options: str, inputs: Sequence[str], **fields: object
) -> None:
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
