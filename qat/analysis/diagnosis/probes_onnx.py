"""Copies of an ``.onnx`` for ONNX Runtime: see :mod:`qat.analysis.diagnosis.probes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from qat.runtimes.onnxruntime import OnnxSession
from qat.runtimes.tensors import axes_of
from qat.system.sample_axes import Axes

from .probes import ERROR, OWN, Probe
from .read_onnx import load, read_onnx


class OnnxProbe:
    """A copy of an ``.onnx``: a :class:`~qat.analysis.diagnosis.probes.Probe`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = OnnxSession(model.SerializeToString())
        self.inputs: Sequence[str] = self._session.input_names
        self.shapes: Mapping[str, tuple[int | None, ...]] = {info.name: info.shape for info in self._session.inputs}
        self.axes: Axes = axes_of(self._session.inputs)
        pairs = zip(self._session.inputs, self.axes, strict=True)
        sizes = {info.shape[axis] for info, axis in pairs if axis is not None and info.shape}
        self.batch: int | None = next((size for size in sizes if size is not None), None)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        values = self._session.invoke(*(feeds[name] for name in self.inputs))
        return dict(zip(self._session.output_names, values, strict=True))


class OnnxProbes:
    """The copies of an ``.onnx``: :class:`~qat.analysis.diagnosis.probes.Probes`."""

    def __init__(self, path: Path) -> None:
        self.network = read_onnx(path)
        self._model = load(path)

    def tapped(self, names: Sequence[str]) -> Probe:
        """Return the copy whose outputs are tensors and the file's outputs."""
        model = self._copy()
        have = {value.name for value in (*model.graph.output, *model.graph.input)}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
        return OnnxProbe(model)

    def cut(self, names: Sequence[str]) -> Probe:
        """Return the copy that takes tensors, and returns what their steps compute."""
        model = self._copy()
        made = self._renamed(model, names)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name + OWN) for name in made)
        model.graph.input.extend(_input(name, self.network.tensor(name).dtype) for name in made)
        return OnnxProbe(model)

    def disturbed(self, names: Sequence[str]) -> Probe:
        """Return the copy that adds inputs to tensors."""
        model = self._copy()
        made = set(self._renamed(model, names))
        nodes = list(model.graph.node)
        del model.graph.node[:]
        for node in nodes:
            model.graph.node.append(node)
            for out in node.output:
                name = out.removesuffix(OWN)
                if out.endswith(OWN) and name in made:
                    model.graph.node.append(helper.make_node("Add", [out, name + ERROR], [name]))
        model.graph.input.extend(_input(name + ERROR, "float32") for name in made)
        return OnnxProbe(model)

    def _copy(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        return model

    @staticmethod
    def _renamed(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
        """Let operators write tensors under names of their own; return those that an operator writes."""
        wanted, made = set(names), []
        for node in model.graph.node:
            for place, out in enumerate(node.output):
                if out in wanted:
                    node.output[place] = out + OWN
                    made.append(out)
        kept = [value for value in model.graph.value_info if value.name not in wanted]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        return made


def _input(name: str, dtype: str) -> onnx.ValueInfoProto:
    kinds = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "uint16": TensorProto.UINT16, "int16": TensorProto.INT16}
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = kinds.get(dtype, TensorProto.FLOAT)
    return value
