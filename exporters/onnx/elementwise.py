"""Sums, products and activations that no kernel absorbs, as ONNX nodes."""

from __future__ import annotations

import numpy as np

from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .writer import Writer


def write_add(writer: Writer, instruction: Instruction) -> None:
    """Write a sum of two tensors, which ONNX Runtime fuses into QLinearAdd."""
    writer.operator(instruction, "Add", writer.dequantize_inputs(instruction))


def write_mul(writer: Writer, instruction: Instruction) -> None:
    """Write a product of two tensors, which ONNX Runtime fuses into QLinearMul."""
    writer.operator(instruction, "Mul", writer.dequantize_inputs(instruction))


def write_minimum(writer: Writer, instruction: Instruction) -> None:
    """Write a Min of integers, whose inputs and output have one scale."""
    writer.node("Min", instruction.inputs, instruction.outputs[0], instruction.name)


def write_maximum(writer: Writer, instruction: Instruction) -> None:
    """Write a Max of integers, whose inputs and output have one scale."""
    writer.node("Max", instruction.inputs, instruction.outputs[0], instruction.name)


def write_relu(writer: Writer, instruction: Instruction) -> None:
    """Write a ReLU."""
    _write_clip(writer, instruction, bounded=False)


def write_relu6(writer: Writer, instruction: Instruction) -> None:
    """Write a ReLU6."""
    _write_clip(writer, instruction, bounded=True)


def _write_clip(writer: Writer, instruction: Instruction, bounded: bool) -> None:
    """Write a Clip of integers, whose input and output have one scale; for a strict QDQ target, of float values."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    encoding = writer.program.encoding_of(output)
    if writer.program.strict_qdq:
        limits = [writer.constant(f"{output}.{end}", f32(limit)) for end, limit in (("lo", 0.0), ("hi", 6.0))]
        inputs = [writer.dequantize_input(instruction), *(limits if bounded else limits[:1])]
        writer.operator(instruction, "Clip", inputs)
    else:
        six = int(np.rint(f32(6.0) / f32(encoding.scale))) + encoding.zero_point if bounded else encoding.qmax
        writer.clip(source, output, encoding.dtype, (encoding.zero_point, min(encoding.qmax, six)), instruction.name)
