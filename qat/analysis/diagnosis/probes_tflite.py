"""Copies of a ``.tflite`` for LiteRT: see :mod:`qat.analysis.diagnosis.probes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qat.runtimes.litert import LiteRTSession
from qat.runtimes.tensors import axes_of
from qat.sources.tflite.flatbuffer import read_model
from qat.system.sample_axes import Axes, count_of, cut

from .probes import ERROR, OWN, Probe
from .read_tflite import read_tflite, subgraph_index

#: An object of the schema's Python classes, which have no types.
_Table = Any


class TFLiteProbe:
    """A copy of a ``.tflite``: a :class:`~qat.analysis.diagnosis.probes.Probe`. It runs in the batch that the file names."""

    def __init__(self, raw: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._session = LiteRTSession(raw)
        self.inputs, self._outputs = inputs, outputs
        self.shapes: Mapping[str, tuple[int | None, ...]] = {
            name: info.shape for name, info in zip(inputs, self._session.inputs, strict=True)
        }
        self.axes: Axes = axes_of(self._session.inputs)
        self.batch: int | None = (self._session.inputs[0].shape or (1,))[self.axes[0] or 0] or 1

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        values, size = [feeds[name] for name in self.inputs], self.batch or 1
        parts = (cut(values, self.axes, start, start + size) for start in range(0, max(count_of(values, self.axes), 1), size))
        found = [self._session.invoke(*map(np.ascontiguousarray, part)) for part in parts]
        joined = (np.concatenate(column) if column[0].ndim else column[0] for column in zip(*found, strict=True))
        return dict(zip(self._outputs, joined, strict=True))


class TFLiteProbes:
    """The copies of a ``.tflite``: :class:`~qat.analysis.diagnosis.probes.Probes`."""

    def __init__(self, path: Path) -> None:
        self.network = read_tflite(path)
        self._path = path
        self._number = {name: number for number, name in enumerate(self.network.tensors)}

    def tapped(self, names: Sequence[str]) -> Probe:
        """Return the copy whose outputs are tensors and the file's outputs."""
        model, graph = self._copy()
        outputs = list(dict.fromkeys([*self.network.outputs, *(n for n in names if n not in self.network.inputs)]))
        graph.outputs = [self._number[name] for name in outputs]
        return _probe(model, self.network.inputs, outputs)

    def cut(self, names: Sequence[str]) -> Probe:
        """Return the copy that takes tensors, and returns what their steps compute."""
        model, graph = self._copy()
        own = self._renamed(graph, names)
        graph.inputs = [*graph.inputs, *(self._number[name] for name in own)]
        graph.outputs = list(own.values())
        return _probe(model, [*self.network.inputs, *own], [name + OWN for name in own])

    def disturbed(self, names: Sequence[str]) -> Probe:
        """Return the copy that adds inputs to tensors."""
        model, graph = self._copy()
        own = self._renamed(graph, names)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
        model.operatorCodes.append(code)
        operators = []
        makers = {number: name for name, number in own.items()}
        for op in graph.operators:
            operators.append(op)
            for out in op.outputs:
                if int(out) in makers:
                    name = makers[int(out)]
                    error = _tensor_like(graph, self._number[name], name + ERROR)
                    graph.inputs = [*graph.inputs, error]
                    add = schema.OperatorT()
                    add.opcodeIndex = len(model.operatorCodes) - 1
                    add.inputs, add.outputs = [int(out), error], [self._number[name]]
                    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
                    operators.append(add)
        graph.operators = operators
        order = [graph.tensors[number].name.decode() for number in graph.inputs[len(self.network.inputs) :]]
        return _probe(model, [*self.network.inputs, *order], self.network.outputs)

    def _copy(self) -> tuple[_Table, _Table]:
        model, _ = read_model(self._path)
        graph = model.subgraphs[subgraph_index(model)]
        model.signatureDefs = None
        graph.inputs, graph.outputs = [int(i) for i in graph.inputs], [int(i) for i in graph.outputs]
        return model, graph

    def _renamed(self, graph: _Table, names: Sequence[str]) -> dict[str, int]:
        """Let operators write tensors to new ones; return the numbers of these, by the old names."""
        wanted = {self._number[name]: name for name in names}
        made: dict[str, int] = {}
        for op in graph.operators:
            outputs = [int(out) for out in op.outputs]
            for place, out in enumerate(outputs):
                if out in wanted:
                    made[wanted[out]] = outputs[place] = _tensor_like(graph, out, wanted[out] + OWN)
            op.outputs = outputs
        return made


def _tensor_like(graph: _Table, number: int, name: str) -> int:
    like, made = graph.tensors[number], schema.TensorT()
    vars(made).update(vars(like) | {"name": name.encode()})
    graph.tensors.append(made)
    return len(graph.tensors) - 1


def _probe(model: _Table, inputs: Sequence[str], outputs: Sequence[str]) -> Probe:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return TFLiteProbe(bytes(builder.Output()), inputs, outputs)
