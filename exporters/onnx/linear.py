"""Convolutions and dense layers as QDQ nodes: ONNX Runtime makes QLinearConv and QGemm of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from qat.program.program import Instruction

from .groups import repeat_channels
from .writer import Writer


def write_conv(writer: Writer, instruction: Instruction) -> None:
    """Write a convolution of images or volumes."""
    quick, integers = repeat_channels(writer, instruction)
    _, parameters = writer.parameters(quick)
    inputs = [writer.dequantize_input(quick, 0, integers), *parameters]
    writer.operator(quick, "Conv", inputs, **conv_attributes(quick))


def conv_attributes(instruction: Instruction) -> dict[str, Any]:
    """Return the attributes of a Conv."""
    assert instruction.weight is not None
    return {
        "kernel_shape": list(instruction.weight.shape[2:]),
        "strides": list(instruction.attrs["strides"]),
        "dilations": list(instruction.attrs["dilations"]),
        "group": int(instruction.attrs["groups"]),
        "pads": pads(instruction),
    }


def window_attributes(instruction: Instruction) -> dict[str, Any]:
    """Return the attributes of a pooling operator."""
    kernel, strides = instruction.attrs["kernel"], instruction.attrs["strides"]
    return {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads(instruction)}


def pads(instruction: Instruction) -> list[int]:
    """Return the padding as ONNX takes it: the first side of each axis, then the last side of each axis."""
    return [sides[end] for end in (0, 1) for sides in instruction.attrs["padding"]]


def write_dense(writer: Writer, instruction: Instruction) -> None:
    """Write a Gemm, which is of rank 2: leading axes of a higher rank are merged and split again, as integers.

    For a strict QDQ target they are merged between Q/DQ, which loses nothing: both sides have one scale.
    """
    weight, parameters = writer.parameters(instruction)
    (source,), (output,) = instruction.inputs, instruction.outputs
    merged = shape = ""
    if len(writer.program.values[source].shape) != 2:
        sizes = writer.program.values[output].shape
        flat = writer.constant(f"{output}.merged", np.array([-1, weight.shape[1]], np.int64))
        if writer.program.strict_qdq:
            scale = writer.scale_and_zero_point(source)
            source = writer.node("DequantizeLinear", [source, *scale], f"{output}/split")
            rows = writer.node("Reshape", [source, flat], f"{output}/merged/real")
            merged = writer.node("QuantizeLinear", [rows, *scale], f"{output}/merged")
        else:
            merged = writer.node("Reshape", [source, flat], f"{output}/merged")
        shape = writer.constant(f"{output}.shape", np.array([-1 if size is None else size for size in sizes], np.int64))
        if sizes.count(None) > 1:
            leading = writer.node("Shape", [source], f"{output}/rows", end=-1)
            units = writer.constant(f"{output}.units", np.array(sizes[-1:], np.int64))
            shape = writer.node("Concat", [leading, units], f"{output}/shape", axis=0)
    inputs = [writer.dequantize_input(instruction, 0, merged), *parameters]
    writer.operator(instruction, "Gemm", inputs, shape, transB=1)
