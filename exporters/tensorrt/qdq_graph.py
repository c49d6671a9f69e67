"""An ``.onnx`` as the rules of TensorRT look at it: its Q/DQ, its weights, who writes and who reads a tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

_COMMUTES = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class QdqGraph:
    """A model's operators with what is asked about them.

    Attributes:
        nodes: of the model, in its order, without constants.
        qdq: those that quantize or dequantize.
        sources: those of ``qdq`` that make integers of floats, or read stored ones: one of each pair.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
        self.nodes: Sequence[NodeProto] = [node for node in graph.node if node.op_type != "Constant"]
        self.qdq = [node for node in self.nodes if node.op_type in (QUANTIZE, DEQUANTIZE)]
        self._writers = {name: node for node in self.nodes for name in node.output}
        made = {node.output[0] for node in self.qdq if node.op_type == QUANTIZE}
        self.sources = [node for node in self.qdq if node.input[0] not in made]
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)

    def name(self, node: NodeProto) -> str:
        """Return the name by which a user finds an operator."""
        return node.name or node.output[0]

    def writer(self, tensor: str) -> NodeProto | None:
        """Return the operator that writes a tensor; None of an input or a constant."""
        return self._writers.get(tensor)

    def readers(self, tensor: str) -> Sequence[NodeProto]:
        """Return the operators that read a tensor."""
        return self._readers.get(tensor, ())

    def readers_behind_qdq(self, tensor: str) -> list[NodeProto]:
        """Return the operators that read a tensor through a QuantizeLinear and a DequantizeLinear."""
        return [
            reader
            for quantize in self.readers(tensor)
            if quantize.op_type == QUANTIZE
            for dequantize in self.readers(quantize.output[0])
            if dequantize.op_type == DEQUANTIZE
            for reader in self.readers(dequantize.output[0])
        ]

    def is_constant(self, tensor: str) -> bool:
        """Return whether a tensor is a constant."""
        return tensor in self._constants

    def is_dequantized(self, tensor: str) -> bool:
        """Return whether a DequantizeLinear writes a tensor, directly or in another order of its axes."""
        writer = self.writer(tensor)
        while writer is not None and writer.op_type in _COMMUTES:  # TensorRT moves DequantizeLinear behind these
            writer = self.writer(writer.input[0])
        return writer is not None and writer.op_type == DEQUANTIZE

    def is_weight(self, node: NodeProto) -> bool:
        """Return whether a QuantizeLinear or DequantizeLinear stands at a constant, directly or behind the other."""
        source = node.input[0]
        writer = self.writer(source)
        if writer is not None and writer.op_type == QUANTIZE:
            source = writer.input[0]
        return source in self._constants

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        """Return the constant that is an operator's input; None where it is absent or computed."""
        name = node.input[index] if index < len(node.input) else ""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def integer_type(self, node: NodeProto) -> int:
        """Return ONNX's code of the type of a Q/DQ's integers; without a zero point that is uint8, as the specification says."""
        name = node.input[2] if len(node.input) > 2 else ""
        if name in self._constants:
            return self._constants[name].data_type
        if node.op_type == DEQUANTIZE:
            source = node.input[0]
            writer = self.writer(source)
            if source in self._constants:
                return self._constants[source].data_type
            if writer is not None and writer.op_type == QUANTIZE:
                return self.integer_type(writer)
        given = self.attribute(node, "output_dtype", 0)
        return given or TensorProto.UINT8

    def rank(self, node: NodeProto) -> int:
        """Return the rank of the weight at a Q/DQ; 0 where there is none."""
        writer = self.writer(node.input[0])
        name = node.input[0] if writer is None else writer.input[0]
        return len(self._constants[name].dims) if name in self._constants else 0

    def attribute(self, node: NodeProto, name: str, default: int) -> int:
        """Return an integer attribute of an operator."""
        return next((a.i for a in node.attribute if a.name == name), default)
