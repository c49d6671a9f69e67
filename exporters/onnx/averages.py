"""Averages over windows and over images, as QDQ nodes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from qat.arithmetic.grid import f32
from qat.errors import ExportError
from qat.program.program import Instruction

from .linear import pads, window_attributes
from .writer import Writer


def write_mean(writer: Writer, instruction: Instruction) -> None:
    """Write a mean over height and width.

    ONNX Runtime has no integer ReduceMean, but a QLinearGlobalAveragePool. Its result loses the two axes as integers.
    """
    axes, (output,) = instruction.attrs["axes"], instruction.outputs
    if tuple(axes) != (2, 3):
        raise ExportError(f"{instruction.layer}: a mean over axes {axes} has no integer kernel")
    inputs = [writer.dequantize_input(instruction)]
    shape = "" if instruction.attrs["keepdims"] else writer.shape(output)
    writer.operator(instruction, "GlobalAveragePool", inputs, shape)


def write_avg_pool(writer: Writer, instruction: Instruction) -> None:
    """Write average pooling as a depthwise convolution with ones, which is exact.

    ONNX Runtime's QLinearAveragePool sums float32 products in the order of the window and adds the zero point before it rounds
    (contrib_ops/cpu/quantization/qlinear_pool.cc), in scalar code.
    """
    if any(pads(instruction)):
        return _write_padded_avg_pool(writer, instruction)
    channels, kernel = writer.program.values[instruction.inputs[0]].shape[1], instruction.attrs["kernel"]
    ones = np.ones((channels or 0, 1, *kernel), np.int8)
    scale = np.asarray(f32(1.0) / f32(int(np.prod(kernel))))
    inputs = [writer.dequantize_input(instruction), writer.dequantize_constant(f"{instruction.name}.ones", ones, scale)]
    writer.operator(instruction, "Conv", inputs, **window_attributes(instruction), group=channels)


def _write_padded_avg_pool(writer: Writer, instruction: Instruction) -> None:
    """Write average pooling whose windows hold several numbers of elements: of the integers themselves, in float.

    A Cast takes the place of the DequantizeLinear with which the optimizer would make a QLinearAveragePool of it.
    """
    (source,), (output,), name = instruction.inputs, instruction.outputs, instruction.name
    integers = writer.node("Cast", [source], f"{name}/input0", to=TensorProto.FLOAT)
    average = writer.node("AveragePool", [integers], f"{name}/average", name, **window_attributes(instruction))
    rounded = writer.node("Round", [average], f"{name}/rounded")
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(writer.program.encoding_of(output).dtype))
    writer.node("Cast", [rounded], output, to=dtype)
