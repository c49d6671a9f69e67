"""Operators that only move integers or choose among them, as ONNX nodes. Inputs and outputs have one scale."""

from __future__ import annotations

import numpy as np

from qat.program.program import Instruction

from .linear import pads, window_attributes
from .writer import Writer

#: The end of an axis, as Slice takes it.
_END = np.iinfo(np.int64).max


def write_concat(writer: Writer, instruction: Instruction) -> None:
    """Write a concatenation."""
    writer.operator(instruction, "Concat", writer.dequantize_inputs(instruction), axis=instruction.attrs["axis"])


def write_max_pool(writer: Writer, instruction: Instruction) -> None:
    """Write a max pooling."""
    writer.operator(instruction, "MaxPool", writer.dequantize_inputs(instruction), **window_attributes(instruction))


def write_reshape(writer: Writer, instruction: Instruction) -> None:
    """Write a reshape, whose batch is free."""
    first = -1 if instruction.attrs.get("folds") else 0
    inputs = [writer.dequantize_input(instruction), writer.shape(instruction.outputs[0], first)]
    writer.operator(instruction, "Reshape", inputs)


def write_pad(writer: Writer, instruction: Instruction) -> None:
    """Write a padding of images with zeros, or with their edges. ONNX Runtime does not fuse it: it pads the integers."""
    top, left, bottom, right = pads(instruction)
    (source,), (output,) = instruction.inputs, instruction.outputs
    amounts = writer.constant(f"{output}.pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    if writer.program.strict_qdq:
        writer.operator(instruction, "Pad", [writer.dequantize_input(instruction), amounts])
    else:
        inputs = [source, amounts, writer.zero_point(source)]
        writer.node("Pad", inputs, output, instruction.name, mode=instruction.attrs.get("mode", "constant"))


def write_transpose(writer: Writer, instruction: Instruction) -> None:
    """Write a transpose, of integers where the value is quantized."""
    (source,), (output,), axes = instruction.inputs, instruction.outputs, list(instruction.attrs["axes"])
    if writer.program.strict_qdq and writer.program.values[source].encoding is not None:
        writer.operator(instruction, "Transpose", [writer.dequantize_input(instruction)], perm=axes)
    else:
        writer.node("Transpose", [source], output, instruction.name, perm=axes)


def write_crop(writer: Writer, instruction: Instruction) -> None:
    """Cut elements off the sides of images."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    cuts = [(axis, *sides) for axis, sides in enumerate(instruction.attrs["padding"], 2) if any(sides)]
    ends = [-last if last else _END for _, _, last in cuts]
    bounds = {"starts": [first for _, first, _ in cuts], "ends": ends, "axes": [axis for axis, *_ in cuts]}
    names = [writer.constant(f"{output}.{name}", np.array(value, np.int64)) for name, value in bounds.items()]
    writer.node("Slice", [source, *names], output, instruction.name)
