"""Weights in a ``.tflite``: as the operators' kernels read them in each mode, and the operator versions that follow.

- static: int8, or two 4-bit weights a byte; the bias on the accumulator's grid, int32, or int64 beside int16 activations.
- dynamic: the same weight beside a float32 activation, which makes the kernel a hybrid one; the bias float32.
- weight_only, float16: the stored weight and a DEQUANTIZE before the float operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.arithmetic.encoding import packed_int4
from qat.arithmetic.numerics import f32
from qat.program.program import Instruction

if TYPE_CHECKING:
    from .flatbuffer import Writer

_Op = schema.BuiltinOperator

#: The schema's name of a fused activation.
ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}

#: The version of an operator by the types of activation and weight (tensorflow/lite/tools/versioning/op_version.cc).
_VERSIONS = {
    _Op.CONV_2D: {
        ("int8", "int8"): 3, ("int8", "int4"): 7, ("float32", "float32"): 1, ("float32", "int8"): 5, ("float32", "int4"): 7,
    },
    _Op.DEPTHWISE_CONV_2D: {("int8", "int8"): 3, ("int8", "int4"): 7, ("float32", "float32"): 2, ("float32", "int8"): 6},
    _Op.TRANSPOSE_CONV: {("int8", "int8"): 4},  # with a fused activation
    _Op.FULLY_CONNECTED: {
        ("int8", "int8"): 4, ("int8", "int4"): 10, ("float32", "float32"): 1, ("float32", "int8"): 12, ("float32", "int4"): 12,
    },
}  # fmt: skip
_KEEPS_DIMENSIONS = 5


def version(code: int, step: Instruction, keeps_dimensions: bool = False) -> int:
    """Return the version of an operator with a weight."""
    activation = "int8" if step.mode == "static" else "float32"
    weight = "float32" if step.mode in ("weight_only", "float16") else _type(step)
    return max(_VERSIONS[code][activation, weight], _KEEPS_DIMENSIONS if keeps_dimensions else 1)


def _type(step: Instruction) -> str:
    return "int4" if step.packed else "int8"


def write_weight(w: Writer, step: Instruction, data: np.ndarray, axis: int) -> list[str]:
    """Write the weight, laid as the operator reads it with its output channels on ``axis``, and the bias; returns their names."""
    name, channels = f"{step.name}.weight", data.shape[axis]
    if step.weight_encoding is None:
        w.add_tensor(name, data.shape, "float16", data=data)
    else:
        scale = np.asarray(step.weight_encoding.scale, f32)
        held = packed_int4(data) if step.packed else data.astype(np.int8)
        w.add_tensor(name, data.shape, _type(step), scale, axis=axis, data=held)
    if step.mode != "static":
        bias = np.zeros(channels, f32) if step.bias is None else step.bias.astype(f32)
        bias_name = w.add_tensor(f"{step.name}.bias", bias.shape, "float32", data=bias)
        return [name if step.mode == "dynamic" else _real_weight(w, step, name, data), bias_name]
    kind = "int64" if w.encoding(step.inputs[0]).bits == 16 else "int32"
    bias = np.zeros(channels, kind) if step.bias is None else step.bias.astype(kind)
    bias_scale = (f32(w.encoding(step.inputs[0]).scale) * scale).astype(f32)
    return [name, w.add_tensor(f"{step.name}.bias", bias.shape, kind, bias_scale, data=bias)]


def _real_weight(w: Writer, step: Instruction, name: str, data: np.ndarray) -> str:
    real = w.add_tensor(f"{name}/real", data.shape, "float32")
    # Version 6 reads 4 bits, 5 one scale a channel, 3 float16.
    code_version = 3 if step.mode == "float16" else 6 if step.packed else 5
    w.operator(_Op.DEQUANTIZE, [name], [real], code_version, schema.DequantizeOptionsT(), "DequantizeOptions")
    return real
