"""Weights in a ``.tflite``, as the operators' kernels read them in each mode, and the operator versions that follow.

- static: int8, or two 4-bit weights in a byte. The bias is on the accumulator's grid: int32, or int64 beside int16 activations.
- dynamic: the same weight beside a float32 activation, for which the kernel is a hybrid one. The bias is float32.
- weight_only, float16: the stored weight and a DEQUANTIZE before the float operator.
"""

from __future__ import annotations

import numpy as np

from qat.arithmetic.encoding import packed_int4
from qat.arithmetic.grid import f32
from qat.program.program import Instruction

from .writer import Op, Writer

#: The version of an operator, by the types of its activation and its weight (tensorflow/lite/tools/versioning/op_version.cc).
_VERSIONS = {
    Op.CONV_2D: {
        ("int8", "int8"): 3, ("int8", "int4"): 7, ("float32", "float32"): 1, ("float32", "int8"): 5, ("float32", "int4"): 7,
    },
    Op.DEPTHWISE_CONV_2D: {("int8", "int8"): 3, ("int8", "int4"): 7, ("float32", "float32"): 2, ("float32", "int8"): 6},
    Op.TRANSPOSE_CONV: {("int8", "int8"): 4},  # with a fused activation
    Op.FULLY_CONNECTED: {
        ("int8", "int8"): 4, ("int8", "int4"): 10, ("float32", "float32"): 1, ("float32", "int8"): 12, ("float32", "int4"): 12,
    },
}  # fmt: skip
#: The version of a FULLY_CONNECTED whose output has as many axes as its input.
_KEEPS_DIMENSIONS = 5


def version(code: int, instruction: Instruction, keeps_dimensions: bool = False) -> int:
    """Return the version of an operator with a weight."""
    activation = "int8" if instruction.mode == "static" else "float32"
    weight = "float32" if instruction.mode in ("weight_only", "float16") else _type(instruction)
    return max(_VERSIONS[code][activation, weight], _KEEPS_DIMENSIONS if keeps_dimensions else 1)


def _type(instruction: Instruction) -> str:
    return "int4" if instruction.packed else "int8"


def write_weight(writer: Writer, instruction: Instruction, weight: np.ndarray, axis: int) -> list[str]:
    """Write the weight and the bias of an operator; return the names of the tensors that the operator reads.

    Args:
        writer: of the file.
        instruction: the operator.
        weight: the operator's weight in the layout that its kernel reads.
        axis: of the output channels in ``weight``.
    """
    name, channels, mode = instruction.weight_tensor, weight.shape[axis], instruction.mode
    held_weight(writer, instruction, weight, axis)
    if mode != "static":
        bias = np.zeros(channels, f32) if instruction.bias is None else instruction.bias.astype(f32)
        bias_name = writer.add_tensor(f"{instruction.name}.bias", bias.shape, "float32", data=bias)
        return [name if mode == "dynamic" else float_weight(writer, instruction, name, weight.shape), bias_name]
    source = writer.program.encoding_of(instruction.inputs[0])
    dtype = "int64" if source.bits == 16 else "int32"
    bias = np.zeros(channels, dtype) if instruction.bias is None else instruction.bias.astype(dtype)
    assert instruction.weight_encoding is not None
    bias_scale = (f32(source.scale) * np.asarray(instruction.weight_encoding.scale, f32)).astype(f32)
    return [name, writer.add_tensor(f"{instruction.name}.bias", bias.shape, dtype, bias_scale, data=bias)]


def held_weight(writer: Writer, instruction: Instruction, weight: np.ndarray, axis: int) -> str:
    """Write a weight alone as the file holds it, with a scale for each entry of ``axis``, and return its name.

    A weight of float32 is that of a float file, for comparison.
    """
    name = instruction.weight_tensor
    if instruction.weight_encoding is None:
        return writer.add_tensor(name, weight.shape, str(weight.dtype), data=weight)
    scale = np.asarray(instruction.weight_encoding.scale, f32)
    data = packed_int4(weight) if instruction.packed else weight.astype(np.int8)
    return writer.add_tensor(name, weight.shape, _type(instruction), scale, axis=axis, data=data)


def float_weight(writer: Writer, instruction: Instruction, name: str, shape: tuple[int, ...]) -> str:
    """Write a DEQUANTIZE of the stored weight, unless that is float32."""
    assert instruction.weight is not None
    real = name if instruction.weight.dtype == f32 else f"{name}/real"
    if real in writer.index:
        return real
    writer.add_tensor(real, shape, "float32")
    # Version 6 reads 4 bits, version 5 one scale for each channel, version 3 float16.
    code_version = 3 if instruction.mode == "float16" else 6 if instruction.packed else 5
    writer.operator(Op.DEQUANTIZE, [name], real, code_version, "DequantizeOptions")
    return real
