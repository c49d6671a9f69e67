"""Convolutions and dense layers in a ``.tflite``."""

from __future__ import annotations

from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from qat.graph.padding import same_padding
from qat.program.program import Instruction

from .data_movement import padded_tensor, write_zeros_around
from .stored_weight import version, write_weight
from .writer import ACTIVATIONS, Op, Writer


def write_conv(writer: Writer, instruction: Instruction) -> None:
    """Write a CONV_2D or DEPTHWISE_CONV_2D."""
    assert instruction.weight is not None
    (output,) = instruction.outputs
    strides, dilations, groups = (instruction.attrs[name] for name in ("strides", "dilations", "groups"))
    out_channels, per_group, *kernel = instruction.weight.shape
    window = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded, padding = _padded(writer, instruction, window)
    if per_group == 1 and groups > 1:
        code, options = Op.DEPTHWISE_CONV_2D, "DepthwiseConv2DOptions"
        weight, axis, extra = instruction.weight.transpose(1, 2, 3, 0), 3, {"depthMultiplier": out_channels // groups}
    else:
        code, options = Op.CONV_2D, "Conv2DOptions"
        weight, axis, extra = instruction.weight.transpose(0, 2, 3, 1), 0, {}
    inputs = [padded, *write_weight(writer, instruction, weight, axis)]
    writer.operator(
        code, inputs, writer.tensor(output), version(code, instruction), options,
        padding=padding, strideH=strides[0], strideW=strides[1], dilationHFactor=dilations[0], dilationWFactor=dilations[1],
        fusedActivationFunction=ACTIVATIONS[instruction.activation], **extra,
    )  # fmt: skip


def _padded(writer: Writer, instruction: Instruction, window: Sequence[int]) -> tuple[str, int]:
    """Return the input and the padding of a convolution: SAME, VALID, or VALID of an input that a PAD has padded."""
    (source,), padding = instruction.inputs, instruction.attrs["padding"]
    if padding == ((0, 0), (0, 0)):
        return writer.tensor(source), schema.Padding.VALID
    if padding == same_padding(writer.program.values[source].shape[1:3], window, instruction.attrs["strides"]):
        return writer.tensor(source), schema.Padding.SAME
    padded = padded_tensor(writer, instruction)
    write_zeros_around(writer, writer.tensor(source), padded, padding)
    return padded, schema.Padding.VALID


def write_dense(writer: Writer, instruction: Instruction) -> None:
    """Write a FULLY_CONNECTED."""
    assert instruction.weight is not None
    (source,), (output,), code = instruction.inputs, instruction.outputs, Op.FULLY_CONNECTED
    keeps_dimensions = len(writer.program.values[source].shape) != 2
    inputs = [writer.tensor(source), *write_weight(writer, instruction, instruction.weight, 0)]
    writer.operator(
        code, inputs, writer.tensor(output), version(code, instruction, keeps_dimensions), "FullyConnectedOptions",
        fusedActivationFunction=ACTIVATIONS[instruction.activation], keepNumDims=keeps_dimensions,
    )  # fmt: skip
