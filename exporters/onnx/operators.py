"""One function an operator: a program's instruction becomes QDQ nodes.

Every input of an operator, its int32 bias included, comes from a DequantizeLinear, and one QuantizeLinear reads its
output: that is what ONNX Runtime fuses (onnxruntime/core/optimizer/qdq_transformer/selectors_actions/). A fused
activation needs no node where the output's limits imply it; elsewhere it is a Clip of the integers, which keeps the
operator before it fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.numerics import f32
from qat.errors import ExportError
from qat.program.program import Instruction, Program

from .attention import OPERATORS as ATTENTION
from .layer_norm import write_layer_norm
from .lookup import OPERATORS as FUNCTIONS

#: Ends the name of the QuantizeLinear that leaves an operator. The optimized graph has it no more where that fused.
REQUANTIZE = "/requantize"


class Writer:
    """The nodes and constants written so far, and the parts that operators share."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.float_bias, self.strict_qdq = program.bias == "float32", program.strict_qdq

    def constant(self, name: str, value: Any) -> str:
        """Store a constant and return its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> str:
        """Add a node and return its output's name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name or f"{output}/{kind}", **attributes))
        return output

    def encoding(self, name: str) -> Encoding:
        """Return the encoding of a quantized value."""
        encoding = self.program.values[name].encoding
        if encoding is None:
            raise ExportError(f"'{name}' is read or written by an integer kernel but has no encoding")
        return encoding

    def grid(self, name: str) -> list[str]:
        """Return the scale and zero point constants of a quantized value."""
        e = self.encoding(name)
        return [
            self.constant(f"{name}.scale", np.asarray(e.scale, f32)),
            self.constant(f"{name}.zero_point", np.asarray(e.zero_point, e.dtype)),
        ]

    def real(self, step: Instruction, index: int = 0, integers: str = "") -> str:
        """Dequantize an input, or the integers that stand for it.

        A node of its own for each reader and place: the optimizer fuses only those that nobody shares.
        """
        name = step.inputs[index]
        return self.node("DequantizeLinear", [integers or name, *self.grid(name)], f"{step.name}/input{index}")

    def constant_real(self, name: str, values: np.ndarray, scale: np.ndarray) -> str:
        """Dequantize a constant with zero point 0, one scale or one for each entry of axis 0."""
        zero_point = self.constant(f"{name}.zero_point", np.zeros(scale.shape, values.dtype))
        inputs = [self.constant(name, values), self.constant(f"{name}.scale", scale), zero_point]
        axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
        return self.node("DequantizeLinear", inputs, f"{name}/real", **axis)

    def parameters(self, step: Instruction) -> tuple[np.ndarray, list[str]]:
        """Dequantize the weight and bias of an operator; returns the integer weight too."""
        if step.weight is None or step.weight_encoding is None:
            raise ExportError(f"{step.scope or step.name}: a {step.kind} without a weight")
        scale = np.asarray(step.weight_encoding.scale, f32)
        out = [self.constant_real(f"{step.name}.weight", step.weight.astype(np.int8), scale)]
        if step.bias is not None:
            bias_scale = np.asarray(f32(self.encoding(step.inputs[0]).scale) * scale, f32)
            name = f"{step.name}.bias"
            if self.float_bias:
                out.append(self.constant(name, (step.bias * bias_scale).astype(f32)))
            else:
                out.append(self.constant_real(name, step.bias.astype(np.int32), bias_scale))
        return step.weight, out

    def finish(self, step: Instruction, real: str, shape: str = "") -> None:
        """Quantize an operator's result, then apply what is left of its activation and reshape it to the tensor ``shape``."""
        output = step.outputs[0]
        e = self.encoding(output)
        lo, hi = step.clamp or (e.qmin, e.qmax)
        clipped = (lo, hi) != (e.qmin, e.qmax)
        if clipped and self.strict_qdq:
            limits = [f32(e.scale) * f32(limit - e.zero_point) for limit in (lo, hi)]
            names = [self.constant(f"{output}.{end}", limit) for end, limit in zip(("lo", "hi"), limits, strict=True)]
            real, clipped = self.node("Clip", [real, *names], f"{output}/clipped"), False
        # Names are assigned from the last node back, so that the value itself is always the final one.
        reshaped = f"{output}/flat" if shape else output
        quantized = f"{output}/unclamped" if clipped else reshaped
        self.node("QuantizeLinear", [real, *self.grid(output)], quantized, step.name + REQUANTIZE)
        if clipped:
            self.clip(quantized, reshaped, output, lo, hi, f"{output}/clamp")
        if shape:
            self.node("Reshape", [reshaped, shape], output)

    def clip(self, integers: str, output: str, grid_of: str, lo: int, hi: int, name: str) -> None:
        """Clip integers."""
        dtype = self.encoding(grid_of).dtype
        limits = [self.constant(f"{output}.{end}", np.asarray(v, dtype)) for end, v in (("lo", lo), ("hi", hi))]
        self.node("Clip", [integers, *limits], output, name)

    def shape(self, name: str) -> str:
        """Store a value's shape for Reshape: 0 copies the batch.

        Raises:
            ExportError: another size is not fixed.
        """
        sizes = self.program.values[name].shape[1:]
        if None in sizes:
            raise ExportError(f"'{name}' is reshaped to {sizes}, of which no size but the batch may be dynamic")
        return self.constant(f"{name}.shape", np.array([0, *sizes], np.int64))


def _quantize(w: Writer, step: Instruction) -> None:
    w.node("QuantizeLinear", [step.inputs[0], *w.grid(step.outputs[0])], step.outputs[0], step.name)


def _dequantize(w: Writer, step: Instruction) -> None:
    w.node("DequantizeLinear", [step.inputs[0], *w.grid(step.inputs[0])], step.outputs[0], step.name)


def _constant(w: Writer, step: Instruction) -> None:
    w.constant(step.outputs[0], step.weight)


def _pads(step: Instruction) -> list[int]:
    return [both[side] for side in (0, 1) for both in step.attrs["padding"]]


def _window(step: Instruction) -> dict[str, Any]:
    return {"kernel_shape": list(step.attrs["kernel"]), "strides": list(step.attrs["strides"]), "pads": _pads(step)}


def _simple(kind: str, attributes: Callable[[Instruction], dict[str, Any]] = lambda step: {}) -> Operator:
    def write(w: Writer, step: Instruction) -> None:
        inputs = [w.real(step, i) for i in range(len(step.inputs))]
        w.finish(step, w.node(kind, inputs, f"{step.name}/real", step.name, **attributes(step)))

    return write


def _conv(w: Writer, step: Instruction) -> None:
    _, parameters = w.parameters(step)
    inputs = [w.real(step), *parameters]
    w.finish(step, w.node("Conv", inputs, f"{step.name}/real", step.name, **conv_attributes(step)))


def conv_attributes(step: Instruction) -> dict[str, Any]:
    """Return the attributes of a Conv."""
    assert step.weight is not None
    return {
        "kernel_shape": list(step.weight.shape[2:]),
        "strides": list(step.attrs["strides"]),
        "dilations": list(step.attrs["dilations"]),
        "group": int(step.attrs["groups"]),
        "pads": _pads(step),
    }


def _dense(w: Writer, step: Instruction) -> None:
    """Write a Gemm, which is of rank 2: leading axes of a higher rank are merged and split again, as integers."""
    weight, parameters = w.parameters(step)
    name, output = step.inputs[0], step.outputs[0]
    merged = shape = ""
    if len(w.program.values[name].shape) != 2:
        where, sizes = step.scope or step.name, w.program.values[output].shape
        if w.strict_qdq:
            raise ExportError(f"{where}: a dense layer on 3 axes or more is not written for TensorRT")
        flat = w.constant(f"{output}.merged", np.array([-1, weight.shape[1]], np.int64))
        merged = w.node("Reshape", [name, flat], f"{output}/merged")
        shape = w.constant(f"{output}.shape", np.array([-1 if size is None else size for size in sizes], np.int64))
        if sizes.count(None) > 1:
            rows = w.node("Shape", [name], f"{output}/rows", end=-1)
            units = w.constant(f"{output}.units", np.array(sizes[-1:], np.int64))
            shape = w.node("Concat", [rows, units], f"{output}/shape", axis=0)
    inputs = [w.real(step, 0, merged), *parameters]
    w.finish(step, w.node("Gemm", inputs, f"{step.name}/real", step.name, transB=1), shape)


def _mean(w: Writer, step: Instruction) -> None:
    if tuple(step.attrs["axes"]) != (2, 3):
        raise ExportError(f"{step.scope or step.name}: a mean over axes {step.attrs['axes']} has no integer kernel")
    pooled = w.node("GlobalAveragePool", [w.real(step)], f"{step.name}/real", step.name)
    # ReduceMean does not fuse; the pooled integers lose their axes after they are quantized.
    w.finish(step, pooled, "" if step.attrs["keepdims"] else w.shape(step.outputs[0]))


def _avg_pool(w: Writer, step: Instruction) -> None:
    """Write average pooling as a depthwise convolution with ones, which is exact.

    ONNX Runtime's QLinearAveragePool sums float32 products in window order and adds the zero point before it rounds
    (contrib_ops/cpu/quantization/qlinear_pool.cc), in scalar code.
    """
    if any(_pads(step)):
        raise ExportError(f"{step.scope or step.name}: average pooling with padding has no exact integer ONNX kernel")
    channels, count = w.program.values[step.inputs[0]].shape[1], int(np.prod(step.attrs["kernel"]))
    ones = np.ones((channels or 0, 1, *step.attrs["kernel"]), np.int8)
    inputs = [w.real(step), w.constant_real(f"{step.name}.ones", ones, np.asarray(f32(1.0) / f32(count)))]
    w.finish(step, w.node("Conv", inputs, f"{step.name}/real", step.name, **_window(step), group=channels))


def _reshape(w: Writer, step: Instruction) -> None:
    inputs = [w.real(step), w.shape(step.outputs[0])]
    w.finish(step, w.node("Reshape", inputs, f"{step.name}/real", step.name))


def _pad(w: Writer, step: Instruction) -> None:
    top, left, bottom, right = _pads(step)
    output = step.outputs[0]
    amounts = w.constant(f"{output}.pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    if w.strict_qdq:
        w.finish(step, w.node("Pad", [w.real(step), amounts], f"{step.name}/real", step.name))
    else:
        # Pad does not fuse; on the integers it needs no fusing.
        inputs = [step.inputs[0], amounts, w.grid(step.inputs[0])[1]]
        w.node("Pad", inputs, output, step.name, mode=step.attrs.get("mode", "constant"))


def _depth_to_space(w: Writer, step: Instruction) -> None:
    """Lay the channels of a block side by side, those of one output channel lying together."""
    height, width = step.attrs["blocks"]
    (source,), (output,) = step.inputs, step.outputs
    if height == width:
        w.node("DepthToSpace", [source], output, step.name, blocksize=height, mode="CRD")
        return
    _, channels, *size = w.program.values[output].shape
    if size[0] == 1:  # a row, whose length may be free
        split, axes, joined = [0, channels, width, -1], [0, 1, 3, 2], [0, channels, 1, -1]
    elif None in size:
        raise ExportError(f"{step.scope or step.name}: with strides {height} and {width} its height and width must be fixed")
    else:
        split, axes = [0, channels, height, width, size[0] // height, size[1] // width], [0, 1, 4, 2, 5, 3]
        joined = [0, channels, *size]
    blocks = w.node("Reshape", [source, w.constant(f"{output}.blocks", np.array(split, np.int64))], f"{output}/blocks")
    turned = w.node("Transpose", [blocks], f"{output}/turned", perm=axes)
    w.node("Reshape", [turned, w.constant(f"{output}.shape", np.array(joined, np.int64))], output, step.name)


def _crop(w: Writer, step: Instruction) -> None:
    cut = [(axis, *sides) for axis, sides in enumerate(step.attrs["padding"], 2) if any(sides)]
    ends = [-last if last else np.iinfo(np.int64).max for _, _, last in cut]
    bounds = {"starts": [first for _, first, _ in cut], "ends": ends, "axes": [axis for axis, *_ in cut]}
    output = step.outputs[0]
    names = [w.constant(f"{output}.{name}", np.array(value, np.int64)) for name, value in bounds.items()]
    w.node("Slice", [step.inputs[0], *names], output, step.name)


def _transpose(w: Writer, step: Instruction) -> None:
    axes = {"perm": list(step.attrs["axes"])}
    if w.strict_qdq and w.program.values[step.inputs[0]].encoding is not None:
        w.finish(step, w.node("Transpose", [w.real(step)], f"{step.name}/real", step.name, **axes))
    else:
        w.node("Transpose", [step.inputs[0]], step.outputs[0], step.name, **axes)


def _relu(w: Writer, step: Instruction) -> None:
    """Write an activation that no kernel absorbs: its input's and output's scale is the same, so it clips integers."""
    output = step.outputs[0]
    e = w.encoding(output)
    six = min(e.qmax, int(np.rint(f32(6.0) / f32(e.scale))) + e.zero_point) if step.kind == "relu6" else e.qmax
    if w.strict_qdq:
        limits = [w.constant(f"{output}.{end}", f32(v)) for end, v in (("lo", 0.0), ("hi", 6.0))]
        inputs = [w.real(step), *(limits if step.kind == "relu6" else limits[:1])]
        w.finish(step, w.node("Clip", inputs, f"{step.name}/real", step.name))
    else:
        w.clip(step.inputs[0], output, output, e.zero_point, six, step.name)


Operator = Callable[[Writer, Instruction], None]

OPERATORS: dict[str, Operator] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "conv3d": _conv,
    "dense": _dense,
    "add": _simple("Add"),
    "mul": _simple("Mul"),
    "constant": _constant,
    **FUNCTIONS,
    **ATTENTION,
    "layer_norm": write_layer_norm,
    "concat": _simple("Concat", lambda step: {"axis": step.attrs["axis"]}),
    "relu": _relu,
    "relu6": _relu,
    "max_pool2d": _simple("MaxPool", _window),
    "avg_pool2d": _avg_pool,
    "mean": _mean,
    "reshape": _reshape,
    "pad": _pad,
    "transpose": _transpose,
    "depth_to_space": _depth_to_space,
    "crop": _crop,
}
