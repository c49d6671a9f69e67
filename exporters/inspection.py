"""What an artifact holds and what of it runs where: for ``qat inspect``, and for whoever doubts a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qat.arithmetic.encoding import Encoding
from qat.runtimes import TensorInfo, open_session
from qat.runtimes.model_file import FileKind

from .export import encodings_path, read_encodings

#: Types that a weight may be stored in.
_WEIGHT_TYPES = ("int2", "int4", "uint4", "int8", "uint8", "float16", "float32", "float64")


@dataclass(frozen=True)
class Weight:
    """A constant of at least two axes, as stored. ``scale`` is None for a float one."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: np.ndarray | None = None


@dataclass(frozen=True)
class Inspection:
    """An artifact.

    Attributes:
        inputs, outputs: with their types and, where they are integers, scales.
        runs: the operators that really run, counted, by what runs them.
        weights: every weight, in the file's order.
        activations: the encodings of the other tensors, by name.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    runs: Mapping[str, Counter[str]]
    weights: tuple[Weight, ...]
    activations: Mapping[str, Encoding]

    def bits(self) -> Counter[str]:
        """Count the weights by the type that they are stored in."""
        return Counter(weight.dtype for weight in self.weights)


def inspect(path: Path) -> Inspection:
    """Open an artifact, ours or anybody's, in its runtime and read what it holds.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
    """
    session = open_session(path)
    encodings = read_encodings(path)
    weights = tuple(_onnx_weights(path) if path.suffix == ".onnx" else _tflite_weights(path))
    constants = {weight.name for weight in weights}
    activations = {n: e for n, e in encodings.items() if n not in constants and not n.endswith(".weight")}
    return Inspection(session.inputs, session.outputs, session.runs(), weights, activations)


def kind_of(path: Path) -> tuple[FileKind, str]:
    """Return what an artifact is to a comparison: ``float``, ``ptq`` or ``qat``, and ``float16`` where its weights are.

    One of ours has its encodings beside it; of others the type of their weights tells.

    Raises:
        QatError: the file is missing, corrupt, or of no known suffix.
    """
    if encodings_path(path).is_file():
        return "qat", ""
    types = set(inspect(path).bits())
    if types <= {"float32", "float64"}:
        return "float", ""
    return "ptq", "float16" if "float16" in types else ""


def layout_of(info: TensorInfo) -> str:
    """Return how an image most likely lies: its channels are the axis of one to four, or the smaller end. Empty for no image."""
    if len(info.shape) != 4 or None in info.shape[1:]:
        return ""
    first, last = info.shape[1] or 0, info.shape[3] or 0
    return "NCHW" if first < last else "NHWC" if last < first else ""


def _onnx_weights(path: Path) -> Iterator[Weight]:
    import onnx

    model = onnx.load(path)
    constants = {c.name: c for c in model.graph.initializer}
    scales = {
        node.input[0]: onnx.numpy_helper.to_array(constants[node.input[1]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and node.input[1] in constants
    }
    for name, constant in constants.items():
        dtype = onnx.TensorProto.DataType.Name(constant.data_type).lower().replace("double", "float64")
        dtype = {"float": "float32"}.get(dtype, dtype)
        if len(constant.dims) >= 2 and dtype in _WEIGHT_TYPES:
            yield Weight(name, tuple(constant.dims), dtype, scales.get(name))


def _tflite_weights(path: Path) -> Iterator[Weight]:
    from ai_edge_litert import schema_py_generated as schema

    names: dict[int, str] = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    for tensor in model.subgraphs[0].tensors:
        data, dtype = model.buffers[tensor.buffer].data, names[tensor.type]
        if data is None or tensor.shape is None or len(tensor.shape) < 2 or dtype not in _WEIGHT_TYPES:
            continue
        q = tensor.quantization
        scale = None if q is None or q.scale is None or not len(q.scale) else np.asarray(q.scale)
        yield Weight(tensor.name.decode(), tuple(int(n) for n in tensor.shape), dtype, scale)
