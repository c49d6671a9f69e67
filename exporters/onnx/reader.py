"""The encodings and the weights that an ``.onnx`` holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qat.arithmetic.encoding import Encoding
from qat.runtimes import WEIGHT_TYPES, Weight

from .attention import BETA, HIDING
from .stored_weight import INTEGER_PRODUCTS

#: Operators that keep their input's scale and may stand on integers, between no QuantizeLinear and DequantizeLinear.
_ON_INTEGERS = ("Clip", "DepthToSpace", "Max", "Min", "Pad", "Reshape", "Slice", "Transpose")
#: The place of the weight among the inputs of operators whose integer weight may have no DequantizeLinear. Its scale is the
#: constant ``<weight>.scale``.
_WEIGHT_OF = {**dict.fromkeys(INTEGER_PRODUCTS, 1), "Gather": 0}
#: Those that take several tensors of one scale.
_OF_SEVERAL = ("Max", "Min")
#: ONNX's names of types, where NumPy has another.
_TYPES = {"float": "float32", "double": "float64"}


def read_encodings(raw: bytes) -> dict[str, Encoding]:
    """Return the encodings in a file: those of activations by tensor name, those of weights as ``<instruction>.weight``.

    The integer limits are those of the stored type. Biases (int32, scale ``s_x * s_w``) are left out.
    """
    graph = onnx.load_from_string(raw).graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    found: dict[str, Encoding] = {}
    for node in graph.node:
        held = node.input[_WEIGHT_OF[node.op_type]] if node.op_type in _WEIGHT_OF else ""
        if held in constants and f"{held}.scale" in constants:  # of this toolkit's files
            scale = constants[f"{held}.scale"].reshape(-1)
            per_channel = len(scale) > 1
            found[held] = Encoding(scale if per_channel else scale[0], 0, -128, 127, 0 if per_channel else None)
        if node.op_type in _ON_INTEGERS and node.input[0] in found:
            found.setdefault(node.output[0], found[node.input[0]])
        encoding = _encoding(node, constants)
        if encoding is not None:
            found.setdefault(node.output[0] if node.op_type == "QuantizeLinear" else node.input[0], encoding)
    # Backwards: a look-up writes integers between no QuantizeLinear and DequantizeLinear, for an operator on integers to read.
    for node in reversed(graph.node):
        if node.op_type in _ON_INTEGERS and node.output[0] in found:
            several = node.op_type in _OF_SEVERAL and not node.name.endswith(HIDING)
            for name in node.input if several else node.input[:1]:
                found.setdefault(name, found[node.output[0]])
    return found


def _encoding(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Encoding | None:
    """Return the encoding that a QuantizeLinear or DequantizeLinear holds; None of a bias and of any other node."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in constants:
        return None
    scale = constants[node.input[1]]
    zero_point = constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.uint8)
    if zero_point.dtype == np.int32 or node.input[1].endswith(BETA):
        return None
    low, high = _limits(zero_point.dtype)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scale.ndim else None
    return Encoding(scale, int(zero_point.reshape(-1)[0]), low, high, axis)


def _limits(dtype: np.dtype) -> tuple[int, int]:
    if dtype.name == "int4":  # a type of ml_dtypes, which np.iinfo does not know
        return -8, 7
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def read_weights(raw: bytes) -> Iterator[Weight]:
    """Yield the weights of a file, in its order."""
    graph = onnx.load_from_string(raw).graph
    constants = {constant.name: constant for constant in graph.initializer}
    scales = {
        node.input[0]: numpy_helper.to_array(constants[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and node.input[1] in constants
    }
    for name, constant in constants.items():
        dtype = TensorProto.DataType.Name(constant.data_type).lower()
        dtype = _TYPES.get(dtype, dtype)
        if len(constant.dims) >= 2 and dtype in WEIGHT_TYPES:
            yield Weight(name, tuple(constant.dims), dtype, scales.get(name))
