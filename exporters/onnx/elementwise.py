"""Sums, products and activations that no kernel absorbs, as ONNX nodes."""

from __future__ import annotations

import numpy as np

from qat.arithmetic.numerics import f32
from qat.program.program import Instruction

from .writer import Writer


def write_add(writer: Writer, instruction: Instruction) -> None:
    """Write a sum of two tensors, which ONNX Runtime fuses into QLinearAdd."""
    writer.operator(instruction, "Add", writer.dequantize_inputs(instruction))


def write_mul(writer: Writer, instruction: Instruction) -> None:
    """Write a product of two tensors, which ONNX Runtime fuses into QLinearMul."""
    writer.operator(instruction, "Mul", writer.dequantize_inputs(instruction))


def write_relu(writer: Writer, instruction: Instruction) -> None:
    """Write a ReLU or ReLU6. Its input and its output have one scale: it clips integers."""
    (source,), (output,) = instruction.inputs, instruction.outputs
    encoding, bounded = writer.encoding(output), instruction.kind == "relu6"
    if writer.program.strict_qdq:
        limits = [writer.constant(f"{output}.{end}", f32(limit)) for end, limit in (("lo", 0.0), ("hi", 6.0))]
        inputs = [writer.dequantize_input(instruction), *(limits if bounded else limits[:1])]
        writer.operator(instruction, "Clip", inputs)
    else:
        six = int(np.rint(f32(6.0) / f32(encoding.scale))) + encoding.zero_point if bounded else encoding.qmax
        limit = (encoding.zero_point, min(encoding.qmax, six))
        writer.clip(source, output, encoding.dtype, limit, instruction.name)
