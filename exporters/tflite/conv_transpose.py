"""Transposed convolutions in a ``.tflite``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import ExportError
from qat.graph.padding import same_padding
from qat.program.program import Instruction

from .stored_weight import version, write_weight
from .writer import ACTIVATIONS, Op, Writer


def write_conv_transpose(writer: Writer, instruction: Instruction) -> None:
    """Write a TRANSPOSE_CONV, whose delegate takes any batch but no kernel below the stride.

    An output beyond the full result needs a filter that is enlarged with zeros. The operator itself cuts off the padding of SAME
    or VALID; a SLICE cuts off any other padding.
    """
    assert instruction.weight is not None
    (source,), (output,), strides = instruction.inputs, instruction.outputs, instruction.attrs["strides"]
    kernel, cuts = instruction.weight.shape[2:], instruction.attrs["padding"]
    beyond = [max(0, s - k, -cut[1]) for s, k, cut in zip(strides, kernel, cuts, strict=True)]
    cuts = tuple((first, last + more) for (first, last), more in zip(cuts, beyond, strict=True))
    size, result = (writer.program.values[name].shape[1:3] for name in (source, output))
    if None in size or None in result:
        raise ExportError(f"{instruction.layer}: a transposed convolution needs images of a fixed size: give the input one")
    window = [k + more for k, more in zip(kernel, beyond, strict=True)]
    covers = size == tuple(-(-(n or 0) // s) for n, s in zip(result, strides, strict=True))
    same = covers and cuts == same_padding(result, window, strides)
    written, shape = writer.integer_tensor(output), writer.program.values[output].shape
    if not same and cuts != ((0, 0), (0, 0)):
        full = tuple((n or 0) + sum(cut) for n, cut in zip(result, cuts, strict=True))
        shape = (None, *full, shape[3])
        written = writer.tensor_like(f"{output}.full", output, shape)
    sizes = writer.constant(f"{output}.shape", [1 if n is None else n for n in shape])
    filled = np.pad(instruction.weight, ((0, 0), (0, 0), *((0, more) for more in beyond)))
    weight, bias = write_weight(writer, instruction, filled.transpose(0, 2, 3, 1), 0)
    code = Op.TRANSPOSE_CONV
    writer.operator(
        code, [sizes, weight, writer.integer_tensor(source), bias], written, version(code, instruction), "TransposeConvOptions",
        padding=schema.Padding.SAME if same else schema.Padding.VALID, strideH=strides[0], strideW=strides[1],
        fusedActivationFunction=ACTIVATIONS[instruction.activation],
    )  # fmt: skip
    if written != output:
        _write_crop(writer, written, output, cuts)


def _write_crop(writer: Writer, source: str, output: str, cuts: Sequence[tuple[int, int]]) -> None:
    (top, _), (left, _) = cuts
    _, height, width, channels = writer.program.values[output].shape
    begin = writer.constant(f"{output}.begin", [0, top, left, 0])
    size = writer.constant(f"{output}.size", [-1, height or 0, width or 0, channels or 0])
    writer.operator(Op.SLICE, [source, begin, size], output, 2, "SliceOptions")
