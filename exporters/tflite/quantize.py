"""Where a program's values enter and leave the integer grid, in a ``.tflite``.

An integer input or output of the file needs no operator: its tensor is the quantized value itself, or a uint8 tensor that a
QUANTIZE converts.
"""

from __future__ import annotations

from qat.program.program import Instruction

from .writer import Op, Writer


def write_quantize(writer: Writer, instruction: Instruction) -> None:
    """Write a QUANTIZE, or let the quantized value stand for an input of the file."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    if source not in writer.program.inputs or source in writer.io:
        writer.operator(Op.QUANTIZE, [writer.float_tensor(source)], writer.integer_tensor(output), 1, "QuantizeOptions")
    elif writer.io_dtype == "int8":
        writer.io[source] = writer.integer_tensor(output)
    else:
        writer.io[source] = writer.uint8_tensor(source, output)
        writer.operator(Op.QUANTIZE, [source], writer.integer_tensor(output), 2, "QuantizeOptions")


def write_dequantize(writer: Writer, instruction: Instruction) -> None:
    """Write a DEQUANTIZE, or let the quantized value stand for an output of the file."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    if output not in writer.program.outputs or writer.io_dtype == "float32" or output in writer.read_as_float:
        writer.operator(Op.DEQUANTIZE, [writer.integer_tensor(source)], writer.float_tensor(output), 2, "DequantizeOptions")
    elif writer.io_dtype == "int8":
        writer.io[output] = writer.integer_tensor(source)
    else:
        writer.io[output] = writer.uint8_tensor(output, source)
        writer.operator(Op.QUANTIZE, [writer.integer_tensor(source)], output, 2, "QuantizeOptions")


def write_constant(writer: Writer, instruction: Instruction) -> None:
    """Store the integers of a parameter on the grid."""
    (output,) = instruction.outputs
    encoding, shape = writer.program.encoding_of(output), writer.program.values[output].shape
    writer.add_tensor(output, shape, encoding.dtype, encoding.scale, encoding.zero_point, data=instruction.weight)
