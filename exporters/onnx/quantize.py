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
    """Store the integers of a parameter on the grid."""
    assert instruction.weight is not None
    writer.constant(instruction.outputs[0], instruction.weight)
