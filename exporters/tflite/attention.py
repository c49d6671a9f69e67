"""Attention in a ``.tflite``: int8 kernels of TFLite's own, which LiteRT's delegate does not take over."""

from __future__ import annotations

import numpy as np

from qat.arithmetic.attention import PROBABILITY_16
from qat.arithmetic.tflite import is_fine
from qat.program.program import Instruction

from .stored_weight import float_weight, held_weight
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
    (output,) = instruction.outputs
    if instruction.mode != "static":
        _write_rows(writer, instruction, writer.float_tensor(output))
        return
    if instruction.weight_encoding is not None:
        real = writer.add_tensor(f"{output}/real", writer.program.values[output].shape, "float32")
        _write_rows(writer, instruction, real)
        writer.operator(Op.QUANTIZE, [real], writer.integer_tensor(output), 1, "QuantizeOptions")
        return
    encoding, vectors = writer.program.encoding_of(output), np.ascontiguousarray(instruction.weight)
    weight = writer.add_tensor(
        instruction.weight_tensor, vectors.shape, encoding.dtype, encoding.scale, encoding.zero_point, data=vectors
    )
    writer.operator(Op.GATHER, [weight, _indices(writer, instruction)], writer.integer_tensor(output), 2, "GatherOptions")


def _indices(writer: Writer, instruction: Instruction) -> str:
    """Return the tensor of the indices of a look-up. Its kernels take none that count from the end: modulo the vectors."""
    assert instruction.weight is not None
    (name,) = instruction.inputs
    given, found = writer.program.values[name], writer.tensor(name)
    if not instruction.attrs.get("wraps"):
        return found
    count = np.array(len(instruction.weight), given.dtype)
    size = writer.add_tensor(f"{instruction.name}/count", (), given.dtype, data=count)
    turned = writer.add_tensor(f"{instruction.name}/indices", given.shape, given.dtype)
    writer.operator(Op.FLOOR_MOD, [found, size], turned, 1, "FloorModOptions")
    return turned


def _write_rows(writer: Writer, instruction: Instruction, real: str) -> None:
    """Write a look-up of rows of a dense layer's weight: an EMBEDDING_LOOKUP, which multiplies them by their scales.

    It takes a list of int32. Rows in float16 are a GATHER from the weight that the layer reads, dequantized.
    """
    assert instruction.weight is not None
    (name,), weight = instruction.inputs, instruction.weight
    table, given = held_weight(writer, instruction, weight, 0), writer.program.values[name]
    indices = _indices(writer, instruction)
    if instruction.weight_encoding is None:
        table = float_weight(writer, instruction, table, weight.shape)
        writer.operator(Op.GATHER, [table, indices], real, 1, "GatherOptions")
        return
    if given.dtype != "int32":
        narrow = writer.add_tensor(f"{instruction.name}/int32", given.shape, "int32")
        writer.operator(Op.CAST, [indices], narrow, 1, "CastOptions")
        indices = narrow
    code_version = 4 if instruction.packed else 3
    if len(given.shape) == 1:
        writer.operator(Op.EMBEDDING_LOOKUP, [indices, table], real, code_version)
        return
    listed = writer.add_tensor(f"{instruction.name}/list", (None,), "int32")
    writer.operator(Op.RESHAPE, [indices, writer.constant(f"{instruction.name}/list.shape", [-1])], listed, 1, "ReshapeOptions")
    rows = writer.add_tensor(f"{instruction.name}/rows", (None, weight.shape[1]), "float32")
    writer.operator(Op.EMBEDDING_LOOKUP, [listed, table], rows, code_version)
    sizes = writer.sizes(f"{instruction.name}/rows", (*given.shape, weight.shape[1]), writer.tensor(name))
    writer.operator(Op.RESHAPE, [rows, sizes], real, 1, "ReshapeOptions")
