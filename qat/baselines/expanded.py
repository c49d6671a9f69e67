"""A float ``.tflite`` as other tools need it: weights as plain float32 constants, and a signature.

Files whose weights are stored as float16 behind DEQUANTIZE, or sparse behind DENSIFY, come out of AI Edge Quantizer unchanged and
without a word, since it finds no constant where it looks for weights; and without a signature its static recipes refuse them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.sources.tflite.flatbuffer import Subgraph, read_model, read_subgraph

#: Operators that make a float32 weight of a stored one.
_RESTORES = ("DEQUANTIZE", "DENSIFY")
#: The schema's generated classes have no types.
_Table = Any


def expanded(path: Path) -> bytes:
    """Return the bytes of a file with stored weights as float32 constants, and with a signature; both in its first subgraph.

    Raises:
        CaptureError: the file cannot be read, or is no ``.tflite``.
    """
    model, raw = read_model(path)
    subgraph = read_subgraph(path)
    graph = model.subgraphs[model.signatureDefs[0].subgraphIndex if model.signatureDefs else 0]
    restored = _restored(subgraph)
    if not restored and model.signatureDefs:
        return raw
    for number, values in restored.items():
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        graph.tensors[number].buffer = len(model.buffers)
        graph.tensors[number].type = schema.TensorType.FLOAT32
        model.buffers.append(buffer)
    gone = [set(read.outputs) <= restored.keys() for read in subgraph.operators]
    graph.operators = [op for op, is_gone in zip(graph.operators, gone, strict=True) if not is_gone]
    if not model.signatureDefs:
        model.signatureDefs = [_signature(subgraph)]
    stored = {read.inputs[0] for read, is_gone in zip(subgraph.operators, gone, strict=True) if is_gone}
    _drop(model, graph, stored - {i for op in graph.operators for i in op.inputs} - {*graph.inputs, *graph.outputs})
    builder = flatbuffers.Builder(len(raw))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _restored(subgraph: Subgraph) -> dict[int, np.ndarray]:
    """Return the values of the tensors that operators restore from constants, by the tensors' numbers."""
    known = {number: tensor.data for number, tensor in enumerate(subgraph.tensors) if tensor.data is not None}
    found: dict[int, np.ndarray] = {}
    for op in subgraph.operators:
        values = known.get(op.inputs[0]) if op.code in _RESTORES else None
        if values is not None and values.dtype in (np.float16, np.float32) and not subgraph.tensors[op.inputs[0]].quantized:
            known[op.outputs[0]] = found[op.outputs[0]] = values.astype(np.float32)
    return found


def _drop(model: _Table, graph: _Table, unused: set[int]) -> None:
    """Take tensors that nothing reads out of a subgraph: the tool would look for their values."""
    place = {old: new for new, old in enumerate(i for i in range(len(graph.tensors)) if i not in unused)}
    read = {tensor.buffer for number, tensor in enumerate(graph.tensors) if number in place}
    for number in unused:
        if graph.tensors[number].buffer not in read:
            model.buffers[graph.tensors[number].buffer].data = None
    graph.tensors = [tensor for number, tensor in enumerate(graph.tensors) if number in place]
    graph.inputs, graph.outputs = ([place[int(i)] for i in numbers] for numbers in (graph.inputs, graph.outputs))
    for op in graph.operators:
        op.inputs, op.outputs = ([place.get(int(i), -1) for i in numbers] for numbers in (op.inputs, op.outputs))
    for entry in (*model.signatureDefs[0].inputs, *model.signatureDefs[0].outputs):
        entry.tensorIndex = place[int(entry.tensorIndex)]


def _signature(subgraph: Subgraph) -> _Table:
    def maps(numbers: tuple[int, ...], names: tuple[str, ...]) -> list[_Table]:
        made = []
        for number, name in zip(numbers, names, strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), number
            made.append(entry)
        return made

    signature = schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.inputs = maps(subgraph.inputs, subgraph.input_names)
    signature.outputs = maps(subgraph.outputs, subgraph.output_names)
    signature.subgraphIndex = 0
    return signature
