"""A program as a ``.tflite``: written straight into a flatbuffer, without a converter that would choose scales itself.

Follows the LiteRT 8-bit quantization specification (https://ai.google.dev/edge/litert/models/quantization_spec) and the
schema that LiteRT ships. Operator versions are the lowest that the kernels ask for.
"""

from __future__ import annotations

from collections.abc import Sequence

from qat.errors import ExportError
from qat.program.program import Program

from .float_block import splice
from .metadata import Attached, attach
from .table import WRITERS
from .writer import Writer


def legalize(program: Program) -> Program:
    """Return a program as it is: LiteRT has a kernel for each operator that the planner lets pass."""
    return program


def write(program: Program, io_dtype: str = "int8", extra_outputs: Sequence[str] = ()) -> bytes:
    """Return a program as the bytes of a ``.tflite``. Tensors keep the program's names.

    Args:
        program: in NHWC.
        io_dtype: of the file's inputs and outputs: ``int8``, ``uint8`` or ``float32``. An input or output that an operator reads
            or writes in float is float32 in any case.
        extra_outputs: the names of quantized values that the file returns too.

    Raises:
        ExportError: the format cannot express the program.
    """
    if program.layout != "NHWC":
        raise ExportError(
            f"the program is in {program.layout} layout, and a .tflite is written in NHWC (Keras'): "
            "call qat.export, which transposes images, or write an .onnx"
        )
    writer = Writer(program, io_dtype)
    for instruction in program.instructions:
        if instruction.kind in WRITERS:
            WRITERS[instruction.kind](writer, instruction)
        elif not instruction.keeps_framework:
            raise ExportError(f"{instruction.layer}: there is no TFLite operator for '{instruction.kind}'")
    if program.block is not None:
        splice(writer, program.block)
    raw = writer.finish(extra_outputs)
    origin = program.origin
    if origin is None or not origin.metadata_table:
        return raw
    return attach(raw, Attached(origin.metadata_table, origin.associated_files))
