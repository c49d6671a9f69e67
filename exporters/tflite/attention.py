"""Attention in a ``.tflite``: int8 kernels of TFLite's own, which LiteRT's delegate does not take over."""

from __future__ import annotations

import numpy as np

from qat.arithmetic.attention import PROBABILITY_16
from qat.arithmetic.tflite import is_fine
from qat.program.program import Instruction

from .writer import Op, Writer


def write_matmul(writer: Writer, instruction: Instruction) -> None:
    """Write a BATCH_MATMUL of two activations."""
    inputs = [writer.integer_tensor(name) for name in instruction.inputs]
    output = writer.integer_tensor(instruction.outputs[0])
    writer.operator(Op.BATCH_MATMUL, inputs, output, 2, "BatchMatMulOptions", adjY=bool(instruction.attrs["transpose_b"]))


def write_softmax(writer: Writer, instruction: Instruction) -> None:
    """Write a SOFTMAX over the last axis. A scale finer than 1/256 takes one into 16 bits, and a QUANTIZE."""
    (source,), (name,) = instruction.inputs, instruction.outputs
    output, fine = writer.integer_tensor(name), is_fine(writer.program.encoding_of(name))
    made = writer.add_tensor(f"{name}/int16", writer.program.values[name].shape, "int16", PROBABILITY_16) if fine else output
    beta = float(instruction.attrs["beta"])
    writer.operator(Op.SOFTMAX, [writer.integer_tensor(source)], made, 2, "SoftmaxOptions", beta=beta)
    if fine:
        writer.operator(Op.QUANTIZE, [made], output, 2)


def write_embedding(writer: Writer, instruction: Instruction) -> None:
    """Write a GATHER of quantized vectors by integer inputs."""
    assert instruction.weight is not None
    (indices,), (output,) = instruction.inputs, instruction.outputs
    encoding, vectors = writer.program.encoding_of(output), np.ascontiguousarray(instruction.weight)
    weight = writer.add_tensor(
        instruction.weight_tensor, vectors.shape, encoding.dtype, encoding.scale, encoding.zero_point, data=vectors
    )
    writer.operator(Op.GATHER, [weight, writer.tensor(indices)], writer.integer_tensor(output), 2, "GatherOptions")
