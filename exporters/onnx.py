"""The ``.onnx`` writer: QDQ, in the form that ONNX Runtime's optimizer turns into integer kernels.

Every input of an operator, its int32 bias included, comes from a DequantizeLinear; one QuantizeLinear reads its output; no
activation node stands between them, since the output's limits are the activation (qdq_selector_action_transformer.cc).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qat.encoding import Encoding
from qat.errors import ExportError
from qat.exporters.onnx_float import splice
from qat.numerics import f32
from qat.program import Instruction, Program, Value
from qat.targets import TARGETS

OPSET = 18
IR_VERSION = 9
_TYPES = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def build(program: Program, extra_outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Return the program as an ONNX model; tensors keep the program's names.

    ``extra_outputs`` names quantized values to be returned too, as integers.

    Raises:
        ExportError: the program cannot be expressed.
    """
    if program.layout != "NCHW":
        raise ExportError("an .onnx is written from a PyTorch model (NCHW); export a Keras model as .tflite")
    return _Writer(program).write(extra_outputs)


def read_encodings(model: onnx.ModelProto) -> dict[str, Encoding]:
    """Return the encodings found in a model: activations by tensor name, weights as ``<instruction>.weight``."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    found: dict[str, Encoding] = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in constants:
            continue
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if name in found or name.endswith(".bias"):
            continue
        zero_point = constants[node.input[2]]
        info = np.iinfo(zero_point.dtype)
        scale = constants[node.input[1]]
        found[name] = Encoding(
            scale, int(zero_point.reshape(-1)[0]), int(info.min), int(info.max), 0 if scale.ndim else None
        )  # fmt: skip
    return found


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.float_bias = TARGETS[program.target].bias == "float32" if program.target in TARGETS else False

    def write(self, extra_outputs: Sequence[str]) -> onnx.ModelProto:
        program = self.program
        spliced = False
        for step in program.instructions:
            if step.kind == "float":
                # The float block holds all float operators; ONNX sorts by dependency below.
                if not spliced and program.float_block is not None:
                    self.nodes += splice(program, self.constants, OPSET)
                    spliced = True
                continue
            _OPERATORS[step.kind](self, step)
        outputs = [*(program.values[n] for n in program.outputs), *(program.values[n] for n in extra_outputs)]
        graph = helper.make_graph(
            _sorted(self.nodes, {*program.inputs, *self.constants}),
            program.name,
            [_value_info(program.values[n]) for n in program.inputs],
            [_value_info(v) for v in outputs],
            list(self.constants.values()),
        )
        model = helper.make_model(graph, producer_name="qat", opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        for key, text in (("recipe", program.recipe), ("target", program.target)):
            model.metadata_props.append(onnx.StringStringEntryProto(key=f"qat.{key}", value=text))
        onnx.checker.check_model(model)
        return model

    # --- parts ---

    def constant(self, name: str, value: Any) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes))
        return output

    def encoding(self, name: str) -> Encoding:
        encoding = self.program.values[name].encoding
        assert encoding is not None
        return encoding

    def grid(self, name: str) -> list[str]:
        """Return the scale and zero point constants of a quantized value."""
        e = self.encoding(name)
        return [
            self.constant(f"{name}.scale", np.asarray(e.scale, f32)),
            self.constant(f"{name}.zero_point", np.asarray(e.zero_point, e.dtype)),
        ]

    def dequantized(self, name: str, reader: str) -> str:
        # A DequantizeLinear of its own for each reader: the optimizer fuses only those that nobody shares.
        return self.node("DequantizeLinear", [name, *self.grid(name)], f"{reader}/{name}.real")

    def quantized(self, real: str, name: str) -> None:
        self.node("QuantizeLinear", [real, *self.grid(name)], name)

    def weight(self, step: Instruction) -> list[str]:
        """Write the dequantized weight and bias of an operator."""
        assert step.weight is not None and step.weight_encoding is not None
        scale = np.asarray(step.weight_encoding.scale, f32)
        per_channel = scale.ndim == 1
        axis = {"axis": 0} if per_channel else {}
        name = f"{step.name}.weight"
        grid = [
            self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero_point", np.zeros(scale.shape, np.int8)),
        ]
        out = [self.node("DequantizeLinear", [self.constant(name, step.weight), *grid], f"{name}.real", **axis)]
        if step.bias is not None:
            bias = f"{step.name}.bias"
            bias_scale = (f32(self.encoding(step.inputs[0]).scale) * scale).astype(f32)
            if self.float_bias:
                return [*out, self.constant(f"{bias}.real", (step.bias * bias_scale).astype(f32))]
            grid = [
                self.constant(f"{bias}.scale", bias_scale),
                self.constant(f"{bias}.zero_point", np.zeros(scale.shape, np.int32)),
            ]
            out.append(self.node("DequantizeLinear", [self.constant(bias, step.bias), *grid], f"{bias}.real", **axis))
        return out

    def finish(self, step: Instruction, real: str) -> None:
        """Quantize an operator's result; an activation is written only where the type's limits do not imply it."""
        output = step.outputs[0]
        e = self.encoding(output)
        if step.clamp is not None and step.clamp != (e.qmin, e.qmax):
            if step.activation == "relu6":
                limits = [self.constant("zero", f32(0)), self.constant("six", f32(6))]
                real = self.node("Clip", [real, *limits], f"{output}/clipped")
            elif step.activation == "relu":
                real = self.node("Relu", [real], f"{output}/clipped")
        self.quantized(real, output)

    def inputs(self, step: Instruction) -> list[str]:
        return [self.dequantized(name, step.name) for name in dict.fromkeys(step.inputs)]


# --- operators -------------------------------------------------------------------------------------------------------


def _quantize(w: _Writer, step: Instruction) -> None:
    w.quantized(step.inputs[0], step.outputs[0])


def _dequantize(w: _Writer, step: Instruction) -> None:
    w.node("DequantizeLinear", [step.inputs[0], *w.grid(step.inputs[0])], step.outputs[0])


def _pads(step: Instruction) -> list[int]:
    (top, bottom), (left, right) = step.attrs["padding"]
    return [top, left, bottom, right]


def _conv(w: _Writer, step: Instruction) -> None:
    assert step.weight is not None
    attributes = {
        "kernel_shape": list(step.weight.shape[2:]),
        "strides": list(step.attrs["strides"]),
        "dilations": list(step.attrs["dilations"]),
        "group": int(step.attrs["groups"]),
        "pads": _pads(step),
    }
    w.finish(step, w.node("Conv", [*w.inputs(step), *w.weight(step)], f"{step.outputs[0]}/real", **attributes))


def _dense(w: _Writer, step: Instruction) -> None:
    rank = len(w.program.values[step.inputs[0]].shape)
    if rank != 2:
        raise ExportError(f"{step.scope or step.name}: a dense layer on {rank}-dimensional input has no fused ONNX kernel")
    w.finish(step, w.node("Gemm", [*w.inputs(step), *w.weight(step)], f"{step.outputs[0]}/real", transB=1))


def _simple(kind: str, attributes: Callable[[Instruction], dict[str, Any]] = lambda step: {}) -> Callable[[_Writer, Instruction], None]:
    def write(w: _Writer, step: Instruction) -> None:
        real = {name: w.dequantized(name, step.name) for name in dict.fromkeys(step.inputs)}
        w.finish(step, w.node(kind, [real[n] for n in step.inputs], f"{step.outputs[0]}/real", **attributes(step)))

    return write


def _mean(w: _Writer, step: Instruction) -> None:
    (name,) = step.inputs
    if step.attrs["axes"] != (2, 3):
        raise ExportError(f"{step.scope or step.name}: a mean over axes {step.attrs['axes']} has no integer ONNX kernel")
    pooled = w.node("GlobalAveragePool", [w.dequantized(name, step.name)], f"{step.outputs[0]}/real")
    if step.attrs["keepdims"]:
        w.finish(step, pooled)
        return
    # The pooled tensor is quantized before its axes are dropped, so that both stay integer.
    output = step.outputs[0]
    w.node("QuantizeLinear", [pooled, *w.grid(output)], f"{output}/pooled")
    _reshaped(w, f"{output}/pooled", output, output, w.program.values[output].shape)


def _reshaped(w: _Writer, integers: str, output: str, grid_of: str, shape: Sequence[int | None]) -> None:
    """Reshape integers: the operator takes any type, so nothing is dequantized."""
    sizes = np.array([0 if i == 0 else d for i, d in enumerate(shape)], np.int64)
    w.node("Reshape", [integers, w.constant(f"{output}.shape", sizes)], output)


def _reshape(w: _Writer, step: Instruction) -> None:
    _reshaped(w, step.inputs[0], step.outputs[0], step.outputs[0], w.program.values[step.outputs[0]].shape)


def _pad(w: _Writer, step: Instruction) -> None:
    (top, bottom), (left, right) = step.attrs["padding"]
    amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    zero = w.grid(step.inputs[0])[1]
    w.node("Pad", [step.inputs[0], w.constant(f"{step.outputs[0]}.pads", amounts), zero], step.outputs[0])


def _max_pool(w: _Writer, step: Instruction) -> None:
    # ONNX's MaxPool takes int8 and uint8 since opset 12: the order of the integers is that of the reals.
    w.node("MaxPool", step.inputs, step.outputs[0], **_window(step))


def _window(step: Instruction) -> dict[str, Any]:
    return {"kernel_shape": list(step.attrs["kernel"]), "strides": list(step.attrs["strides"]), "pads": _pads(step)}


def _avg_pool(w: _Writer, step: Instruction) -> None:
    """Write average pooling as a depthwise convolution with ones: QLinearAveragePool sums in float, and its ties vary."""
    if step.attrs["padding"] != ((0, 0), (0, 0)):
        raise ExportError(f"{step.scope or step.name}: average pooling with padding has no exact integer ONNX kernel")
    channels, count = w.program.values[step.inputs[0]].shape[1], int(np.prod(step.attrs["kernel"]))
    assert channels is not None
    name = f"{step.name}.ones"
    weight = w.constant(name, np.ones((channels, 1, *step.attrs["kernel"]), np.int8))
    grid = [w.constant(f"{name}.scale", f32(1.0) / f32(count)), w.constant(f"{name}.zero_point", np.int8(0))]
    ones = w.node("DequantizeLinear", [weight, *grid], f"{name}.real")
    window = {"kernel_shape": list(step.attrs["kernel"]), "strides": list(step.attrs["strides"]), "group": channels}
    w.finish(step, w.node("Conv", [*w.inputs(step), ones], f"{step.outputs[0]}/real", **window))


def _relu6(w: _Writer, step: Instruction) -> None:
    limits = [w.constant("zero", f32(0)), w.constant("six", f32(6))]
    w.quantized(w.node("Clip", [*w.inputs(step), *limits], f"{step.outputs[0]}/real"), step.outputs[0])


_OPERATORS: dict[str, Callable[[_Writer, Instruction], None]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "dense": _dense,
    "add": _simple("Add"),
    "mul": _simple("Mul"),
    "concat": _simple("Concat", lambda step: {"axis": step.attrs["axis"]}),
    "relu": _simple("Relu"),
    "relu6": _relu6,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "mean": _mean,
    "reshape": _reshape,
    "pad": _pad,
}


def _value_info(value: Value) -> onnx.ValueInfoProto:
    dtype = value.encoding.dtype if value.encoding is not None else value.dtype
    return helper.make_tensor_value_info(value.name, _TYPES[dtype], ["batch" if d is None else d for d in value.shape])


def _sorted(nodes: list[onnx.NodeProto], available: set[str]) -> list[onnx.NodeProto]:
    """Order nodes by dependency; ``""`` is ONNX's absent input."""
    ready, out, waiting = available | {""}, [], list(nodes)
    while waiting:
        runnable = [n for n in waiting if all(i in ready for i in n.input)]
        if not runnable:
            missing = sorted({i for n in waiting for i in n.input if i not in ready})
            raise ExportError(f"the graph reads values that nothing writes: {', '.join(missing[:3])}")
        names = {id(n) for n in runnable}
        waiting = [n for n in waiting if id(n) not in names]
        out += runnable
        ready |= {o for n in runnable for o in n.output}
    return out
