"""The encodings and the weights that a ``.tflite`` holds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.arithmetic.encoding import Encoding
from qat.arithmetic.grid import f32
from qat.runtimes import WEIGHT_TYPES, Weight

from .writer import Table

_BIASES = (schema.TensorType.INT32, schema.TensorType.INT64)
#: The limits of the integers of a quantized tensor; int8 is not among them.
_LIMITS = {
    schema.TensorType.UINT8: (0, 255),
    schema.TensorType.INT16: (-32768, 32767),
    schema.TensorType.INT4: (-8, 7),
}


def read_encodings(raw: bytes) -> dict[str, Encoding]:
    """Return the encodings in a file: those of activations by tensor name, those of weights as ``<instruction>.weight``.

    The integer limits are those of the stored type. Biases (int32 or int64, scale ``s_x * s_w``) are left out.
    """
    found = {}
    for tensor in _model(raw).subgraphs[0].tensors:
        scale = _scale(tensor)
        if scale is None or tensor.type in _BIASES:
            continue
        low, high = _LIMITS.get(tensor.type, (-128, 127))
        axis = int(tensor.quantization.quantizedDimension) if len(scale) > 1 else None
        zero_point = int(tensor.quantization.zeroPoint[0])
        found[tensor.name.decode()] = Encoding(scale if axis is not None else scale[0], zero_point, low, high, axis)
    return found


def read_weights(raw: bytes) -> Iterator[Weight]:
    """Yield the weights of a file, in its order."""
    types: dict[int, str] = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    model = _model(raw)
    for tensor in model.subgraphs[0].tensors:
        data, dtype = model.buffers[tensor.buffer].data, types[tensor.type]
        if data is not None and tensor.shape is not None and len(tensor.shape) >= 2 and dtype in WEIGHT_TYPES:
            yield Weight(tensor.name.decode(), tuple(int(n) for n in tensor.shape), dtype, _scale(tensor))


def tensor_written_by(raw: bytes, number: int) -> str:
    """Return the name of the first tensor that an operator of a file writes, by the operator's number."""
    graph = _model(raw).subgraphs[0]
    name: str = graph.tensors[graph.operators[number].outputs[0]].name.decode()
    return name


def _model(raw: bytes) -> Table:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(raw))


def _scale(tensor: Table) -> np.ndarray | None:
    """Return the scales of a tensor, one or one for each channel; None of a float tensor."""
    q = tensor.quantization
    return None if q is None or q.scale is None or len(q.scale) == 0 else np.asarray(q.scale, f32)
