"""Bilinear up-sampling in a ``.tflite``."""

from __future__ import annotations

from qat.errors import ExportError
from qat.program.program import Instruction

from .writer import Op, Writer


def write_upsampling(writer: Writer, instruction: Instruction) -> None:
    """Write a RESIZE_BILINEAR between the centres of pixels."""
    source, output = (writer.integer_tensor(name) for name in (instruction.inputs[0], instruction.outputs[0]))
    height, width = writer.program.values[output].shape[1:3]
    if height is None or width is None:
        raise ExportError(f"{instruction.layer}: an up-sampling needs images of a fixed size: give the model's input one")
    size = writer.constant(f"{output}.size", [height, width])
    # Version 3 takes places between the centres.
    writer.operator(Op.RESIZE_BILINEAR, [source, size], output, 3, "ResizeBilinearOptions", halfPixelCenters=True)
