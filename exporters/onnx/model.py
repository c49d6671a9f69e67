"""The ``.onnx`` exporter: QDQ, in the form that ONNX Runtime's optimizer turns into integer kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qat.arithmetic.encoding import Encoding
from qat.errors import ExportError, reason_of
from qat.graph.graph import AXES
from qat.program.program import Program, Value
from qat.runtimes.onnxruntime import OnnxSession

from .attention import BETA
from .float_block import splice
from .operators import OPERATORS, REQUANTIZE, Writer
from .stored_weight import INTEGER_PRODUCTS, write_stored

#: The lowest that torch's exporter writes without converting; ONNX Runtime fuses MaxPool at versions 12 to 21 only
#: (qdq_selector_action_transformer.cc, DropQDQNodesRules).
OPSET = 18
IR_VERSION = 9
#: DequantizeLinear reads 4-bit weights since this opset, which needs this version of the file format.
OPSET_INT4, IR_VERSION_INT4 = 21, 10
_TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}
#: Operators that keep their input's scale and may stand on integers, between no QuantizeLinear and DequantizeLinear.
_ON_INTEGERS = ("Clip", "DepthToSpace", "Pad", "Reshape", "Slice", "Transpose")


def build(program: Program, extra_outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Return the program as an ONNX model with float32 inputs and outputs and a dynamic batch.

    Tensors keep the program's names. ``extra_outputs`` names quantized values to be returned too, as integers.

    Raises:
        ExportError: the program cannot be expressed in ONNX.
    """
    if program.layout != "NCHW":
        raise ExportError(
            f"the program is in {program.layout} layout, and an .onnx is written in NCHW (PyTorch's): "
            "export a Keras model to .tflite"
        )
    returned = (*program.outputs, *extra_outputs)
    for name in returned:
        if name in program.inputs or returned.count(name) > 1:
            raise ExportError(f"the model returns '{name}' as it is or twice, and ONNX cannot: return it once")
    writer = Writer(program)
    for step in program.instructions:
        if step.mode != "static":
            write_stored(writer, step)
        elif step.kind in OPERATORS:
            OPERATORS[step.kind](writer, step)
        elif step.kind not in ("float", "move"):
            raise ExportError(f"{step.scope or step.name}: there is no ONNX operator for '{step.kind}'")
    packed = any(step.packed for step in program.instructions)
    opset, ir_version = (OPSET_INT4, IR_VERSION_INT4) if packed else (OPSET, IR_VERSION)
    if program.block is not None:
        writer.nodes += splice(program, writer.constants, opset)
    graph = helper.make_graph(
        _sorted(writer.nodes, {*program.inputs, *writer.constants}),
        program.name or "model",
        [_value_info(program.values[n]) for n in program.inputs],
        [_value_info(program.values[n]) for n in returned],
        list(writer.constants.values()),
    )
    model = helper.make_model(graph, producer_name="qat", opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    helper.set_model_props(model, {"qat.recipe": program.recipe, "qat.target": program.target})
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the program is not a valid ONNX graph: {reason_of(error)}") from error
    return model


def read_encodings(model: onnx.ModelProto) -> dict[str, Encoding]:
    """Return the encodings found in a model: activations by tensor name, weights as ``<instruction>.weight``.

    The integer limits are those of the stored type. Biases (int32, scale ``s_x * s_w``) are left out.
    """
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    found: dict[str, Encoding] = {}
    for node in model.graph.node:
        if node.op_type in INTEGER_PRODUCTS:
            scale = constants[f"{node.input[1]}.scale"].reshape(-1)
            found[node.input[1]] = Encoding(scale if len(scale) > 1 else scale[0], 0, -128, 127, 0 if len(scale) > 1 else None)
        if node.op_type in _ON_INTEGERS and node.input[0] in found:
            found.setdefault(node.output[0], found[node.input[0]])
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in constants:
            continue
        if node.input[1].endswith(BETA):
            continue
        name = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        scale = constants[node.input[1]]
        zero_point = constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.uint8)
        if zero_point.dtype == np.int32:
            continue
        low, high = _limits(zero_point.dtype)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scale.ndim else None
        encoding = Encoding(scale, int(zero_point.reshape(-1)[0]), low, high, axis)
        found.setdefault(name, encoding)
    for node in reversed(model.graph.node):  # of what a look-up writes and an operator on integers reads
        if node.op_type in _ON_INTEGERS and node.output[0] in found:
            found.setdefault(node.input[0], found[node.output[0]])
    return found


def _limits(dtype: np.dtype) -> tuple[int, int]:
    if dtype.name == "int4":  # not NumPy's own, which np.iinfo asks for
        return -8, 7
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def unfused(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the quantized operators that ONNX Runtime does not run by an integer kernel.

    An operator is named as in the program. It has fused where the optimizer left no QuantizeLinear to write its result.
    """
    # The extended level fuses; the layout level above it only inserts transposes.
    optimized = OnnxSession(model.SerializeToString()).optimized_graph("extended")
    left = [node.name for node in optimized.graph.node if node.op_type == "QuantizeLinear"]
    return tuple(name.removesuffix(REQUANTIZE) for name in left if name.endswith(REQUANTIZE))


def _value_info(value: Value) -> onnx.ValueInfoProto:
    dtype = value.encoding.dtype if value.encoding is not None else value.dtype
    if dtype not in _TYPES:
        raise ExportError(f"'{value.name}' is a {dtype} tensor; an .onnx takes and returns {', '.join(_TYPES)}")
    axes = value.axes or range(len(value.shape))
    names = [_axis_name(value, axis) if size is None else size for axis, size in zip(axes, value.shape, strict=True)]
    return helper.make_tensor_value_info(value.name, _TYPES[dtype], names)


def _axis_name(value: Value, axis: int) -> str:
    """Return the name of a size that is not fixed, by the axis of the model's tensor."""
    names = AXES.get(len(value.shape), ())
    return "batch" if axis == 0 else f"{value.name}_{names[axis - 2] if 0 <= axis - 2 < len(names) else axis}"


def _sorted(nodes: Iterable[onnx.NodeProto], available: set[str]) -> list[onnx.NodeProto]:
    """Order nodes by dependency; ``""`` is ONNX's absent input."""
    ready, out, waiting = available | {""}, [], list(nodes)
    while waiting:
        blocked = []
        for node in waiting:
            if all(name in ready for name in node.input):
                ready.update(node.output)
                out.append(node)
            else:
                blocked.append(node)
        if len(blocked) == len(waiting):
            written = {name for node in blocked for name in node.output}
            missing = sorted({name for node in blocked for name in node.input} - ready - written)
            raise ExportError(f"the program reads values that nothing writes: {', '.join(missing[:3])}")
        waiting = blocked
    return out
