"""Operators of windows in a ``.tflite``: convolutions, pooling, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.errors import ExportError
from qat.graph.padding import same_padding
from qat.program.program import Instruction

from .flatbuffer import Writer
from .stored_weight import ACTIVATIONS, version, write_weight

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


def _conv_transpose(w: Writer, step: Instruction) -> None:
    """Write a TRANSPOSE_CONV, whose delegate takes any batch but no kernel below the stride.

    What lies beyond the full result is reached by a filter enlarged with zeros. What is cut off is that of SAME, or nothing, or
    cropped from the full result by an operator of its own.
    """
    assert step.weight is not None
    (output,), strides, kernel = step.outputs, step.attrs["strides"], step.weight.shape[2:]
    cuts = step.attrs["padding"]
    beyond = [max(0, s - k, -cut[1]) for s, k, cut in zip(strides, kernel, cuts, strict=True)]
    cuts = tuple((first, last + more) for (first, last), more in zip(cuts, beyond, strict=True))
    size, result = (w.program.values[name].shape[1:3] for name in (step.inputs[0], output))
    if None in size or None in result:
        raise ExportError(f"{step.scope or step.name}: a transposed convolution needs images of a fixed size: give the input one")
    window = [k + more for k, more in zip(kernel, beyond, strict=True)]
    options = schema.TransposeConvOptionsT()
    options.strideH, options.strideW = strides
    options.fusedActivationFunction = ACTIVATIONS[step.activation]
    covers = size == tuple(-(-(n or 0) // s) for n, s in zip(result, strides, strict=True))
    same = covers and cuts == same_padding(result, window, strides)
    options.padding = schema.Padding.SAME if same else schema.Padding.VALID
    written, shape = w.grid(output), w.program.values[output].shape
    if not same and cuts != ((0, 0), (0, 0)):
        full = tuple((n or 0) + sum(cut) for n, cut in zip(result, cuts, strict=True))
        e = w.encoding(output)
        shape = (None, *full, shape[3])
        written = w.add_tensor(f"{output}.full", shape, e.dtype, e.scale, e.zero_point)
    sizes = w.constant(f"{output}.shape", np.array([1 if n is None else n for n in shape]))
    weight = np.pad(step.weight, ((0, 0), (0, 0), *((0, more) for more in beyond)))
    weight_name, bias = write_weight(w, step, weight.transpose(0, 2, 3, 1), 0)
    code = _Op.TRANSPOSE_CONV
    inputs = [sizes, weight_name, w.grid(step.inputs[0]), bias]
    w.operator(code, inputs, [written], version(code, step), options, "TransposeConvOptions")
    if written != w.grid(output):
        _write_crop(w, written, w.grid(output), cuts)


def _write_crop(w: Writer, source: str, output: str, cuts: Any) -> None:
    (top, _), (left, _) = cuts
    _, height, width, channels = w.program.values[output].shape
    begin = w.constant(f"{output}.begin", np.array([0, top, left, 0]))
    size = w.constant(f"{output}.size", np.array([-1, height, width, channels]))
    w.operator(_Op.SLICE, [source, begin, size], [output], 2, schema.SliceOptionsT(), "SliceOptions")


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
    "conv_transpose2d": _conv_transpose,
    "max_pool2d": _pool(_Op.MAX_POOL_2D),
    "avg_pool2d": _pool(_Op.AVERAGE_POOL_2D),
    "pad": _pad,
}
