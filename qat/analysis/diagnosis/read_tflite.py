"""A ``.tflite`` as a neutral network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qat.sources.tflite.flatbuffer import read_model, read_subgraph

from .network import Grid, Network, Operator, Tensor

#: An object of the schema's Python classes, which have no types.
_Table = Any

_KINDS = {
    "QUANTIZE": "quantize", "DEQUANTIZE": "dequantize", "CONV_2D": "conv", "DEPTHWISE_CONV_2D": "conv", "CONV_3D": "conv",
    "TRANSPOSE_CONV": "conv_transpose", "FULLY_CONNECTED": "dense", "BATCH_MATMUL": "matmul", "ADD": "add", "SUB": "sub",
    "MUL": "mul", "DIV": "div", "RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "clip", "RELU_0_TO_1": "clip", "CAST": "cast",
    "RESHAPE": "reshape", "SQUEEZE": "reshape", "EXPAND_DIMS": "reshape", "TRANSPOSE": "transpose", "PAD": "pad", "PADV2": "pad",
    "MIRROR_PAD": "pad", "SLICE": "slice", "STRIDED_SLICE": "slice", "GATHER": "gather", "SPLIT": "split", "SPLIT_V": "split",
    "BROADCAST_TO": "expand", "AVERAGE_POOL_2D": "mean", "MEAN": "mean", "MAX_POOL_2D": "max_pool", "CONCATENATION": "concat",
    "SOFTMAX": "softmax", "LOGISTIC": "sigmoid", "TANH": "tanh", "HARD_SWISH": "hard_swish", "GELU": "gelu",
    "LEAKY_RELU": "leaky_relu",
}  # fmt: skip
_LIMITS = {"int4": (-8, 7), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}
_NAMES = {"FLOAT32": "float32", "FLOAT16": "float16", "BOOL": "bool"}


def read_tflite(path: Path) -> Network:
    """Return the network of the first signature of a ``.tflite``, or of its first subgraph.

    Raises:
        DataError: the file is missing or damaged.
    """
    graph = read_subgraph(path)
    model, _ = read_model(path)
    tables = model.subgraphs[subgraph_index(model)].tensors
    tensors = {}
    for read, table in zip(graph.tensors, tables, strict=True):
        dtype = _NAMES.get(read.dtype, read.dtype.lower())
        data = _int4(model.buffers[table.buffer], read.shape) if dtype == "int4" else read.data
        tensors[read.name] = Tensor(read.name, dtype, _grid(table, dtype), data)
    names = [t.name for t in graph.tensors]
    operators = tuple(
        Operator(
            _KINDS.get(op.code, op.code),
            op.scope,
            tuple(names[i] if i >= 0 else "" for i in _operands(op.code, op.inputs)),
            tuple(names[i] for i in op.outputs),
            -1 if op.code == "DEPTHWISE_CONV_2D" else 0,
        )
        for op in graph.operators
    )
    inputs, outputs = (tuple(names[i] for i in indices) for indices in (graph.inputs, graph.outputs))
    return Network(operators, tensors, inputs, outputs, channels_last=True)


def subgraph_index(model: _Table) -> int:
    """Return the number of the subgraph that is run."""
    return int(model.signatureDefs[0].subgraphIndex) if model.signatureDefs else 0


def _operands(code: str, inputs: tuple[int, ...]) -> tuple[int, ...]:
    """Return the operands, the values first, the weight second."""
    return (inputs[2], inputs[1], *inputs[3:]) if code == "TRANSPOSE_CONV" else inputs


def _grid(table: _Table, dtype: str) -> Grid | None:
    q = table.quantization
    if q is None or q.scale is None or len(q.scale) == 0 or dtype not in _LIMITS:
        return None
    scale = np.asarray(q.scale, np.float32)
    points = np.zeros(len(scale), np.int64) if q.zeroPoint is None else np.asarray(q.zeroPoint, np.int64)
    return Grid(scale, points, *_LIMITS[dtype], int(q.quantizedDimension) if len(scale) > 1 else None)


def _int4(buffer: _Table, shape: tuple[int | None, ...]) -> np.ndarray | None:
    if buffer.data is None or not len(buffer.data):
        return None
    packed = np.asarray(buffer.data, np.uint8)
    both = np.stack([packed & 0xF, packed >> 4], 1).reshape(-1).astype(np.int8)
    sizes = [n or 1 for n in shape]
    return np.where(both > 7, both - 16, both)[: int(np.prod(sizes))].reshape(sizes).astype(np.int8)
