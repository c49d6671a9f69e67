"""Operators of windows in a ``.tflite``: convolutions, pooling, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import ExportError
from qat.exporters.tflite_weights import ACTIVATIONS, version, write_weight
from qat.exporters.tflite_writer import Writer
from qat.geometry import same_padding
from qat.program import Instruction

_Op = schema.BuiltinOperator


def _conv(w: Writer, step: Instruction) -> None:
    assert step.weight is not None
    dilations, groups = step.attrs["dilations"], step.attrs["groups"]
    out_channels, per_group, kh, kw = step.weight.shape
    window = [(k - 1) * d + 1 for k, d in zip((kh, kw), dilations, strict=True)]
    source, mode = _padded(w, step, window)
    if per_group == 1 and groups > 1:
        options, kind, code = schema.DepthwiseConv2DOptionsT(), "DepthwiseConv2DOptions", _Op.DEPTHWISE_CONV_2D
        options.depthMultiplier = out_channels // groups
        data, axis = step.weight.transpose(1, 2, 3, 0), 3
    else:
        options, kind, code = schema.Conv2DOptionsT(), "Conv2DOptions", _Op.CONV_2D
        data, axis = step.weight.transpose(0, 2, 3, 1), 0
    options.padding = mode
    options.strideH, options.strideW = step.attrs["strides"]
    options.dilationHFactor, options.dilationWFactor = dilations
    options.fusedActivationFunction = ACTIVATIONS[step.activation]
    inputs = [source, *write_weight(w, step, data, axis)]
    w.operator(code, inputs, [w.tensor(step.outputs[0])], version(code, step), options, kind)


def _padded(w: Writer, step: Instruction, window: Sequence[int]) -> tuple[str, int]:
    """Return the input, padded by an operator of its own where neither SAME nor VALID gives the padding, and the mode."""
    name = step.inputs[0]
    padding = step.attrs["padding"]
    if padding == ((0, 0), (0, 0)):
        return w.tensor(name), schema.Padding.VALID
    size = w.program.values[name].shape[1:3]
    if padding == same_padding(size, window, step.attrs["strides"]):
        return w.tensor(name), schema.Padding.SAME
    out = _padded_tensor(w, step)
    _write_pad(w, w.tensor(name), out, padding)
    return out, schema.Padding.VALID


def _padded_tensor(w: Writer, step: Instruction) -> str:
    """Return a tensor that holds the input with its padding."""
    name = step.inputs[0]
    _, height, width, channels = w.program.values[name].shape
    (top, bottom), (left, right) = step.attrs["padding"]
    if height is None or width is None:
        raise ExportError(f"{step.scope or step.name}: padding needs images of a fixed size: give the model's input one")
    shape = (None, height + top + bottom, width + left + right, channels)
    if w.program.values[name].encoding is None:
        return w.add_tensor(f"{step.name}.padded", shape, "float32")
    e = w.encoding(name)
    return w.add_tensor(f"{step.name}.padded", shape, e.dtype, e.scale, e.zero_point)


def _write_pad(w: Writer, source: str, output: str, padding: Any) -> None:
    amounts = w.constant(f"{output}.paddings", np.array([(0, 0), *padding, (0, 0)]))
    # Version 2 is the int8 one; it pads with the zero point.
    w.operator(_Op.PAD, [source, amounts], [output], 2, schema.PadOptionsT(), "PadOptions")


def _pad_with_lowest(w: Writer, step: Instruction) -> str:
    """Pad the input of a max pooling with what never wins."""
    out = _padded_tensor(w, step)
    amounts = w.constant(f"{out}.paddings", np.array([(0, 0), *step.attrs["padding"], (0, 0)]))
    e = w.encoding(step.inputs[0])
    lowest = w.add_tensor(f"{out}.lowest", (1,), e.dtype, e.scale, e.zero_point, data=np.array([e.qmin], e.dtype))
    w.operator(_Op.PADV2, [w.grid(step.inputs[0]), amounts, lowest], [out], 2, schema.PadV2OptionsT(), "PadV2Options")
    return out


def _pool(code: int) -> Callable[[Writer, Instruction], None]:
    def write(w: Writer, step: Instruction) -> None:
        size = w.program.values[step.inputs[0]].shape[1:3]
        padding, kernel, source = step.attrs["padding"], step.attrs["kernel"], w.grid(step.inputs[0])
        same = padding == same_padding(size, kernel, step.attrs["strides"])
        if not same and padding != ((0, 0), (0, 0)):
            if code != _Op.MAX_POOL_2D:
                raise ExportError(
                    f"{step.scope or step.name}: TFLite averages over SAME or VALID windows only, not with padding {padding}: "
                    "pad with zeros before it, leave it float by a rule of the recipe, or prepare for target 'onnxruntime'"
                )
            source = _pad_with_lowest(w, step)
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.filterHeight, options.filterWidth = kernel
        options.strideH, options.strideW = step.attrs["strides"]
        options.fusedActivationFunction = ACTIVATIONS[None]
        w.operator(code, [source], [w.grid(step.outputs[0])], 2, options, "Pool2DOptions")

    return write


def _pad(w: Writer, step: Instruction) -> None:
    _write_pad(w, w.grid(step.inputs[0]), w.grid(step.outputs[0]), step.attrs["padding"])


OPERATORS: dict[str, Callable[[Writer, Instruction], None]] = {
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "max_pool2d": _pool(_Op.MAX_POOL_2D),
    "avg_pool2d": _pool(_Op.AVERAGE_POOL_2D),
    "pad": _pad,
}
