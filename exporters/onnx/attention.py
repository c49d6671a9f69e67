"""Attention as QDQ nodes: ONNX Runtime makes QLinearMatMul and QLinearSoftmax of them; an embedding is a Gather of integers."""

from __future__ import annotations

import numpy as np

from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .stored_weight import write_rows
from .writer import Writer

#: Ends the name of a scale that a softmax multiplies its factor into. It is not the encoding of the tensor that it dequantizes.
BETA = "/times_beta"
#: Ends the name of a Min that hides scores. The integers of its second input have no scale.
HIDING = "/hide"


def write_matmul(writer: Writer, instruction: Instruction) -> None:
    """Write a matrix product of two activations. The second one is transposed as integers, for a strict QDQ target in float."""
    rank = len(writer.program.values[instruction.inputs[1]].shape)
    axes, name = [*range(rank - 2), rank - 1, rank - 2], f"{instruction.name}/transposed"
    strict, transposed = writer.program.strict_qdq, ""
    if instruction.attrs["transpose_b"] and not strict:
        transposed = writer.node("Transpose", [instruction.inputs[1]], name, perm=axes)
    inputs = [writer.dequantize_input(instruction, 0), writer.dequantize_input(instruction, 1, transposed)]
    if instruction.attrs["transpose_b"] and strict:
        inputs[1] = writer.node("Transpose", [inputs[1]], name, perm=axes)
    writer.operator(instruction, "MatMul", inputs)


def write_softmax(writer: Writer, instruction: Instruction) -> None:
    """Write a softmax over the last axis. Its factor is multiplied into the scale of its DequantizeLinear."""
    (source,), beta = instruction.inputs, f32(instruction.attrs["beta"])
    if beta == 1:
        real = writer.dequantize_input(instruction)
    else:
        scale = writer.constant(f"{instruction.name}{BETA}", np.asarray(f32(writer.program.encoding_of(source).scale) * beta))
        real = writer.node("DequantizeLinear", [source, scale, writer.zero_point(source)], f"{instruction.name}/input0")
    writer.operator(instruction, "Softmax", [real], axis=-1)


def write_mask(writer: Writer, instruction: Instruction) -> None:
    """Write a Min of scores and of integers, which are the greatest where a score is shown, else the least."""
    writer.node("Min", instruction.inputs, instruction.outputs[0], instruction.name + HIDING)


def write_embedding(writer: Writer, instruction: Instruction) -> None:
    """Write a look-up of quantized vectors by integer inputs."""
    assert instruction.weight is not None
    if instruction.weight_encoding is not None:
        writer.quantize_output(instruction, write_rows(writer, instruction, f"{instruction.name}/real"))
        return
    weight = writer.constant(instruction.weight_tensor, instruction.weight)
    writer.node("Gather", [weight, instruction.inputs[0]], instruction.outputs[0], instruction.name, axis=0)
