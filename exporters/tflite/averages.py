"""Averages over windows and over axes, in a ``.tflite``."""

from __future__ import annotations

from qat.errors import ExportError
from qat.graph.padding import same_padding
from qat.program.program import Instruction

from .data_movement import write_pool
from .writer import Op, Writer


def write_mean(writer: Writer, instruction: Instruction) -> None:
    """Write a MEAN."""
    axes = writer.constant(f"{instruction.name}.axes", instruction.attrs["axes"])
    source, output = (writer.integer_tensor(name) for name in (instruction.inputs[0], instruction.outputs[0]))
    writer.operator(Op.MEAN, [source, axes], output, 2, "ReducerOptions", keepDims=instruction.attrs["keepdims"])


def write_avg_pool(writer: Writer, instruction: Instruction) -> None:
    """Write an AVERAGE_POOL_2D, which leaves padding out of its averages and pads as SAME or VALID only."""
    size, padding = writer.program.values[instruction.inputs[0]].shape[1:3], instruction.attrs["padding"]
    same = padding == same_padding(size, instruction.attrs["kernel"], instruction.attrs["strides"])
    if not same and padding != ((0, 0), (0, 0)):
        raise ExportError(
            f"{instruction.layer}: TFLite averages over SAME or VALID windows only, not with padding "
            f"{padding}: pad with zeros before it, leave it float by a rule of the recipe, or prepare for target 'onnxruntime'"
        )
    write_pool(writer, instruction, Op.AVERAGE_POOL_2D, writer.integer_tensor(instruction.inputs[0]), same)
