"""Averages over windows and over axes, in a ``.tflite``."""

from __future__ import annotations

from dataclasses import replace

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
    """Write an AVERAGE_POOL_2D, which leaves padding out of its averages and pads as SAME or VALID only.

    Of other windows, all those of SAME padding are averaged, and a STRIDED_SLICE takes the ones that are asked for.
    """
    (name,), kernel, padding = instruction.inputs, instruction.attrs["kernel"], instruction.attrs["padding"]
    source = writer.integer_tensor(name)
    same = padding == same_padding(writer.program.values[name].shape[1:3], kernel, instruction.attrs["strides"])
    if same or padding == ((0, 0), (0, 0)):
        write_pool(writer, instruction, Op.AVERAGE_POOL_2D, source, writer.integer_tensor(instruction.outputs[0]), same)
    else:
        _write_some_windows(writer, instruction, source)


def _write_some_windows(writer: Writer, instruction: Instruction, source: str) -> None:
    """Write the averages over the windows of SAME padding with strides of 1, and take those of the instruction."""
    (name,), (output,), attrs = instruction.inputs, instruction.outputs, instruction.attrs
    every = writer.tensor_like(f"{instruction.name}.every", name, writer.program.values[name].shape)
    of_every = replace(instruction, attrs={**attrs, "strides": (1, 1)})
    write_pool(writer, of_every, Op.AVERAGE_POOL_2D, source, every, same=True)
    starts = [(k - 1) // 2 - first for k, (first, _) in zip(attrs["kernel"], attrs["padding"], strict=True)]
    sizes = writer.program.values[output].shape[1:3]
    if None in sizes:
        raise ExportError(f"{instruction.layer}: padding needs images of a fixed size: give the model's input one")
    ends = [start + ((size or 0) - 1) * step + 1 for start, size, step in zip(starts, sizes, attrs["strides"], strict=True)]
    bounds = {"begin": [0, *starts, 0], "end": [0, *ends, 0], "strides": [1, *attrs["strides"], 1]}
    constants = [writer.constant(f"{every}.{word}", numbers) for word, numbers in bounds.items()]
    whole = 0b1001  # the bits of the batch and the channels, of which nothing is cut off
    writer.operator(
        Op.STRIDED_SLICE, [every, *constants], writer.integer_tensor(output), 2, "StridedSliceOptions",
        beginMask=whole, endMask=whole,
    )  # fmt: skip
