"""Operators that only move integers or choose among them, in a ``.tflite``. Inputs and outputs have one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import ExportError
from qat.graph.padding import same_padding
from qat.program.program import Instruction

from .writer import ACTIVATIONS, Op, Writer


def write_concat(writer: Writer, instruction: Instruction) -> None:
    """Write a CONCATENATION."""
    inputs = [writer.integer_tensor(name) for name in instruction.inputs]
    output = writer.integer_tensor(instruction.outputs[0])
    writer.operator(Op.CONCATENATION, inputs, output, 2, "ConcatenationOptions", axis=instruction.attrs["axis"])


def write_max_pool(writer: Writer, instruction: Instruction) -> None:
    """Write a MAX_POOL_2D, whose own padding is SAME or VALID. Another padding is an operator before it."""
    (name,), padding = instruction.inputs, instruction.attrs["padding"]
    source, size = writer.integer_tensor(name), writer.program.values[name].shape[1:3]
    same = padding == same_padding(size, instruction.attrs["kernel"], instruction.attrs["strides"])
    if not same and padding != ((0, 0), (0, 0)):
        source = _lowest_around(writer, instruction)
    write_pool(writer, instruction, Op.MAX_POOL_2D, source, writer.integer_tensor(instruction.outputs[0]), same)


def write_pool(writer: Writer, instruction: Instruction, code: int, source: str, output: str, same: bool) -> None:
    """Write a pooling operator over windows from one tensor to another, with the padding of SAME or VALID."""
    kernel, strides = instruction.attrs["kernel"], instruction.attrs["strides"]
    writer.operator(
        code, [source], output, 2, "Pool2DOptions",
        padding=schema.Padding.SAME if same else schema.Padding.VALID, filterHeight=kernel[0], filterWidth=kernel[1],
        strideH=strides[0], strideW=strides[1], fusedActivationFunction=ACTIVATIONS[None],
    )  # fmt: skip


def _lowest_around(writer: Writer, instruction: Instruction) -> str:
    """Pad the input of a max pooling with the lowest integer, which no window returns."""
    (name,) = instruction.inputs
    padded, encoding = padded_tensor(writer, instruction), writer.program.encoding_of(name)
    amounts = writer.constant(f"{padded}.paddings", [(0, 0), *instruction.attrs["padding"], (0, 0)])
    lowest = writer.add_tensor(
        f"{padded}.lowest", (1,), encoding.dtype, encoding.scale, encoding.zero_point,
        data=np.array([encoding.qmin], encoding.dtype),
    )  # fmt: skip
    writer.operator(Op.PADV2, [writer.integer_tensor(name), amounts, lowest], padded, 2, "PadV2Options")
    return padded


def write_reshape(writer: Writer, instruction: Instruction) -> None:
    """Write a RESHAPE, whose batch is free."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    numbers = [-1 if size is None else size for size in writer.program.values[output].shape]
    tensor, shape = writer.integer_tensor(source), writer.constant(f"{output}.shape", numbers)
    writer.operator(Op.RESHAPE, [tensor, shape], writer.integer_tensor(output), 1, "ReshapeOptions")


def write_pad(writer: Writer, instruction: Instruction) -> None:
    """Write a padding of images with zeros."""
    source, output = (writer.integer_tensor(name) for name in (instruction.inputs[0], instruction.outputs[0]))
    write_zeros_around(writer, source, output, instruction.attrs["padding"])


def padded_tensor(writer: Writer, instruction: Instruction) -> str:
    """Return a tensor for the input of an operator with its padding around it."""
    (name,) = instruction.inputs
    _, height, width, channels = writer.program.values[name].shape
    (top, bottom), (left, right) = instruction.attrs["padding"]
    if height is None or width is None:
        raise ExportError(f"{instruction.layer}: padding needs images of a fixed size: give the model's input one")
    padded, shape = f"{instruction.name}.padded", (None, height + top + bottom, width + left + right, channels)
    if writer.program.values[name].encoding is None:
        return writer.add_tensor(padded, shape, "float32")
    return writer.tensor_like(padded, name, shape)


def write_zeros_around(writer: Writer, source: str, output: str, padding: Sequence[tuple[int, int]]) -> None:
    """Write a PAD of images from one tensor to another."""
    amounts = writer.constant(f"{output}.paddings", [(0, 0), *padding, (0, 0)])
    # Version 2 reads int8, and pads with the zero point.
    writer.operator(Op.PAD, [source, amounts], output, 2, "PadOptions")


def write_transpose(writer: Writer, instruction: Instruction) -> None:
    """Write a TRANSPOSE, of integers where the value is quantized."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    axes = writer.constant(f"{output}.axes", instruction.attrs["axes"])
    # Version 2 reads int8.
    writer.operator(Op.TRANSPOSE, [writer.tensor(source), axes], writer.tensor(output), 2, "TransposeOptions")
