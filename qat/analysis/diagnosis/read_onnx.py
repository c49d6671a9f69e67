"""An ``.onnx`` as a neutral network: float, in QDQ form, in QOperator form, or with dynamic activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from qat.errors import DataError, reason_of

from .network import MOVES, Grid, Network, Operator, Tensor

_KINDS = {
    "QuantizeLinear": "quantize", "DequantizeLinear": "dequantize", "DynamicQuantizeLinear": "quantize_dynamic",
    "Conv": "conv", "FusedConv": "conv", "ConvInteger": "conv", "ConvTranspose": "conv_transpose", "Gemm": "dense",
    "MatMul": "matmul", "FusedMatMul": "matmul", "MatMulInteger": "matmul", "Add": "add", "Sum": "add", "Sub": "sub",
    "Mul": "mul", "Div": "div",
    "Relu": "relu", "Clip": "clip", "BatchNormalization": "batch_norm", "Cast": "cast", "Identity": "identity",
    "Dropout": "identity", "Reshape": "reshape", "Flatten": "reshape", "Squeeze": "reshape", "Unsqueeze": "reshape",
    "Transpose": "transpose", "Pad": "pad", "Slice": "slice", "Gather": "gather", "Split": "split", "Expand": "expand",
    "GlobalAveragePool": "mean", "AveragePool": "mean", "ReduceMean": "mean", "MaxPool": "max_pool", "Concat": "concat",
    "Softmax": "softmax", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hard_swish", "HardSigmoid": "hard_sigmoid",
    "Gelu": "gelu", "FastGelu": "gelu", "QuickGelu": "silu", "LeakyRelu": "leaky_relu",
    "LayerNormalization": "layer_norm", "SkipLayerNormalization": "layer_norm",
    "SimplifiedLayerNormalization": "layer_norm", "RMSNormalization": "layer_norm",
}  # fmt: skip

#: Operators that may stand on integers, between no QuantizeLinear and DequantizeLinear.
_KEEPS = MOVES | {"max_pool", "clip", "identity"}

#: The QOperator form: for each operator its kind, the places of (values, scale, zero point) of its inputs, the places of the
#: output's scale and zero point, and that of the bias.
#: Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, and ONNX's own specification.
_ONE_INPUT, _TWO_INPUTS = (((0, 1, 2),), (3, 4), None), (((0, 1, 2), (3, 4, 5)), (6, 7), None)
_Q_OPERATORS: dict[str, tuple[str, tuple[tuple[int, int, int], ...], tuple[int, int], int | None]] = {
    "QLinearConv": ("conv", ((0, 1, 2), (3, 4, 5)), (6, 7), 8),
    "QLinearMatMul": ("matmul", *_TWO_INPUTS),
    "QGemm": ("dense", ((0, 1, 2), (3, 4, 5)), (7, 8), 6),
    "QLinearAdd": ("add", *_TWO_INPUTS),
    "QLinearMul": ("mul", *_TWO_INPUTS),
    "QLinearSigmoid": ("sigmoid", *_ONE_INPUT),
    "QLinearLeakyRelu": ("leaky_relu", *_ONE_INPUT),
    "QLinearSoftmax": ("softmax", *_ONE_INPUT),
    "QLinearGlobalAveragePool": ("mean", *_ONE_INPUT),
    "QLinearAveragePool": ("mean", *_ONE_INPUT),
    "QLinearReduceMean": ("mean", *_ONE_INPUT),
}


def read_onnx(path: Path) -> Network:
    """Return the network of an ``.onnx``.

    Raises:
        DataError: the file is missing or damaged.
    """
    model = load(path)
    try:
        return _network(model.graph)
    except (ValueError, TypeError, KeyError, IndexError) as error:  # what onnx and NumPy raise for tensors that are none
        raise DataError(f"{path} is damaged: {reason_of(error)}. Export it again") from error


def load(path: Path) -> onnx.ModelProto:
    """Return the model of a file. Raises DataError where it is missing or damaged."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        model = onnx.load(str(path))
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise DataError(f"{path} is no ONNX model, or is truncated: {reason_of(error)}") from error
    if not model.graph.node:
        raise DataError(f"{path} has no operators: it is no ONNX model, or is truncated")
    return model


def _network(graph: onnx.GraphProto) -> Network:
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    tensors = {name: Tensor(name, _name(type_)) for name, type_ in types.items()}
    tensors |= {name: Tensor(name, data.dtype.name, None, data) for name, data in constants.items()}
    numbers: set[str] = set()
    known = set(constants)

    def hold(name: str, scale: str, zero_point: str, axis: int) -> None:
        if name and scale in constants:
            grid = _grid(constants[scale], constants.get(zero_point), axis, tensors.get(name))
            data = constants.get(name)
            tensors[name] = Tensor(name, _dtype(grid), grid, data)

    operators = []
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        names = list(node.input)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            held = node.output[0] if node.op_type == "QuantizeLinear" else names[0]
            hold(held, names[1], names[2] if len(names) > 2 else "", axis)
        if node.op_type == "DynamicQuantizeLinear":
            numbers.update(node.output[1:])
        if node.op_type in _Q_OPERATORS:
            kind, inputs, output, bias = _Q_OPERATORS[node.op_type]
            channels = _channels(node, kind)
            for place, (value, scale, zero) in enumerate(inputs):
                hold(names[value], names[scale], names[zero] if zero < len(names) else "", channels if place else 0)
            hold(node.output[0], names[output[0]], names[output[1]] if output[1] < len(names) else "", 0)
            chosen = [names[value] for value, _, _ in inputs]
            if bias is not None and bias < len(names) and names[bias]:
                chosen.append(names[bias])
            operators.append(_operator(node, kind, chosen, known, channels))
            continue
        if node.op_type == "QLinearConcat":
            hold(node.output[0], names[0], names[1], 0)
            for place in range(2, len(names), 3):
                hold(names[place], names[place + 1], names[place + 2], 0)
            operators.append(_operator(node, "concat", names[2::3], known))
            continue
        kind = _KINDS.get(node.op_type, node.op_type)
        chosen = names[:2] if node.op_type in ("ConvInteger", "MatMulInteger") else names
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            chosen = names[:1]
        if kind == "dequantize" and chosen[0] in known:
            known.add(node.output[0])
        operators.append(_operator(node, kind, chosen, known, _channels(node, kind)))
    for op in operators:  # integers that an operator only moves keep their grid
        if op.kind in _KEEPS and op.inputs[0] in tensors and op.outputs[0] not in tensors:
            held = tensors[op.inputs[0]]
            if held.grid is not None and held.data is None:
                tensors[op.outputs[0]] = Tensor(op.outputs[0], held.dtype, held.grid)
    inputs_ = tuple(v.name for v in graph.input if v.name not in constants)
    return Network(tuple(operators), tensors, inputs_, tuple(v.name for v in graph.output), False, frozenset(numbers))


def _operator(node: onnx.NodeProto, kind: str, inputs: list[str], known: set[str], channels: int = 0) -> Operator:
    """Return an operator; a product with a constant weight is a dense layer."""
    kind = "dense" if kind == "matmul" and inputs[1] in known else kind
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} if kind == "conv" else {}
    return Operator(kind, node.name or node.output[0], tuple(inputs), tuple(node.output), channels, attributes)


def _channels(node: onnx.NodeProto, kind: str) -> int:
    if kind == "dense":
        transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
        return 0 if transposed else 1
    return {"matmul": -1, "conv_transpose": 1}.get(kind, 0)


def _grid(scale: np.ndarray, zero_point: np.ndarray | None, axis: int, tensor: Tensor | None) -> Grid:
    if zero_point is None:
        stored = tensor.data.dtype if tensor is not None and tensor.data is not None else np.dtype(np.uint8)
        zero_point = np.zeros(scale.shape, stored)
    name = zero_point.dtype.name
    if name in ("int4", "uint4"):
        low, high = (-8, 7) if name == "int4" else (0, 15)
    else:
        limits = np.iinfo(zero_point.dtype)
        low, high = int(limits.min), int(limits.max)
    several = scale.size > 1
    return Grid(
        scale.astype(np.float32).reshape(-1), zero_point.astype(np.int64).reshape(-1), low, high, axis if several else None
    )


def _dtype(grid: Grid) -> str:
    bits = 4 if grid.high <= 15 else 8 if grid.high <= 255 else 16 if grid.high <= 65535 else 32
    return f"{'int' if grid.low < 0 else 'uint'}{bits}"


def _name(type_: int) -> str:
    return "" if type_ == TensorProto.UNDEFINED else np.dtype(helper.tensor_dtype_to_np_dtype(type_)).name
