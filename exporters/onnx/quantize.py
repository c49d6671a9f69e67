"""Where a program's values enter and leave the integer grid, as ONNX nodes."""

from __future__ import annotations

from qat.program.program import Instruction

from .writer import Writer


def write_quantize(writer: Writer, instruction: Instruction) -> None:
    """Write a QuantizeLinear."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    writer.node("QuantizeLinear", [source, *writer.scale_and_zero_point(output)], output, instruction.name)


def write_dequantize(writer: Writer, instruction: Instruction) -> None:
    """Write a DequantizeLinear."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    writer.node("DequantizeLinear", [source, *writer.scale_and_zero_point(source)], output, instruction.name)


def write_constant(writer: Writer, instruction: Instruction) -> None:
    """Store the integers of a parameter on the grid.

    A single number has as many axes as what it is added to or multiplied with: ONNX Runtime takes a number without axes beside a
    tensor whose last size is 1 element by element, 13 times as slowly.
    """
    assert instruction.weight is not None
    name, values = instruction.outputs[0], instruction.weight
    if values.size == 1:
        ranks = [len(writer.program.values[r.outputs[0]].shape) for r in writer.program.instructions if name in r.inputs]
        values = values.reshape((1,) * max(min(ranks, default=0), values.ndim))
    writer.constant(name, values)
