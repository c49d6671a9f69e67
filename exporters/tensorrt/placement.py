"""What TensorRT's builder demands and advises of an ``.onnx`` with Q/DQ: a table of rules, each with its check.

Sources: "Explicit Quantization" and "Q/DQ Layer-Placement Recommendations" in NVIDIA's TensorRT documentation
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html), and the
operators of its ONNX parser (https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from qat.errors import QatError
from qat.runtimes.onnxruntime import OnnxSession

from .qdq_graph import DEQUANTIZE, QUANTIZE, QdqGraph

Level = Literal["error", "warning"]

#: Operators with weights, whose inputs are all to be quantized, and the axis of their output channels in a weight.
WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": -1}
#: Operators that TensorRT runs in int8 where their inputs are quantized, besides those with weights.
INT8 = {
    "Add", "AveragePool", "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalAveragePool", "MaxPool", "Mul",
    "Pad", "ReduceMean", "Relu", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Transpose",
    "Unsqueeze",
}  # fmt: skip
#: What the kernel of a weighted operator computes at its end; Q/DQ between the two keep them apart.
FUSED = {"BatchNormalization", "Clip", "LeakyRelu", "Relu"}
#: Operators on integers, and of ONNX Runtime alone, which TensorRT's parser does not know.
_INTEGER_OPERATORS = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
_TYPES = {TensorProto.INT8: "int8", TensorProto.INT4: "int4", TensorProto.FLOAT8E4M3FN: "float8"}


@dataclass(frozen=True)
class Finding:
    """One place of a file that breaks a rule.

    Attributes:
        rule: its name in :data:`RULES`.
        level: ``error`` where the builder refuses the file, ``warning`` where the engine is slower or less exact.
        node: the name of the operator in the file.
        says: what is there and what to do.
    """

    rule: str
    level: Level
    node: str
    says: str


#: Yields the name of an operator, and what is wrong there.
Check = Callable[[QdqGraph], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Rule:
    """A demand (``error``) or an advice (``warning``) of TensorRT's documentation."""

    name: str
    level: Level
    demands: str
    check: Check


def check_placement(path: str | Path) -> list[Finding]:
    """Return every place of an ``.onnx`` that TensorRT refuses or runs slower, errors first; any tool's file may be given.

    Raises:
        QatError: the file is missing, of another format, or no ONNX model.

    Examples:
        >>> import numpy as np, qat, torch
        >>> from qat.exporters.tensorrt import check_placement
        >>> x = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
        >>> model = qat.calibrate(qat.prepare(torch.nn.Conv2d(3, 4, 3), x, target="tensorrt"), [x])
        >>> check_placement(qat.export(model, "net.onnx").path)
        []
    """
    if Path(path).suffix != ".onnx":
        raise QatError(
            f"{path}: TensorRT builds engines of .onnx files with Q/DQ, and the rules are for these alone; qat inspect shows "
            "what is in other artifacts"
        )
    OnnxSession(path, optimize=False)  # says in one sentence what is wrong with the file
    graph = QdqGraph(onnx.load(path))
    found = [Finding(rule.name, rule.level, *place) for rule in RULES for place in rule.check(graph)]
    return sorted(found, key=lambda finding: finding.level)


def _operators(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if node.op_type in _INTEGER_OPERATORS or node.domain not in ("", "ai.onnx"):
            domain = f" of {node.domain}" if node.domain else ""
            yield graph.name(node), f"{node.op_type}{domain} is ONNX Runtime's own: write the file in the form Q/DQ"


def _symmetric(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.sources:
        zero_point = graph.constant(node, 2)
        if zero_point is not None and np.any(zero_point.astype(np.int64)):
            said = f"the zero point is {int(zero_point.reshape(-1)[0])}; TensorRT knows 0 alone"
            yield graph.name(node), f"{said}: quantize symmetrically"


def _types(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.sources:
        kind = graph.integer_type(node)
        if kind == TensorProto.INT32:
            yield graph.name(node), "a bias in int32 behind DequantizeLinear: leave the bias in float32"
        elif kind not in _TYPES:
            name = TensorProto.DataType.Name(kind).lower()
            yield graph.name(node), f"the integers are {name}; TensorRT reads {', '.join(_TYPES.values())}: quantize to int8"


def _scales(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.sources:
        scale = graph.constant(node, 1)
        if scale is None:
            yield graph.name(node), "the scale is computed; TensorRT needs a constant: use static quantization"
        elif not (np.isfinite(scale) & (scale > 0)).all():
            yield graph.name(node), "a scale is not above 0: calibrate again"


def _per_tensor(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.sources:
        scale = graph.constant(node, 1)
        if scale is not None and scale.size > 1 and not graph.is_weight(node):
            yield graph.name(node), f"an activation has {scale.size} scales; TensorRT reads one scale for each activation"


def _channel_axis(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.qdq:
        scale = graph.constant(node, 1)
        if node.op_type != DEQUANTIZE or scale is None or scale.size == 1 or not graph.is_weight(node):
            continue
        for reader in graph.readers(node.output[0]):
            axis = WEIGHTED.get(reader.op_type)
            if reader.op_type == "Gemm" and not graph.attribute(reader, "transB", 0):
                axis = 1
            rank = graph.rank(node)
            given = graph.attribute(node, "axis", 1)
            if axis is not None and rank and given % rank != axis % rank:
                said = f"the weight of {reader.op_type} '{graph.name(reader)}' has its scales along axis {given}"
                yield graph.name(node), f"{said}; its output channels are axis {axis % rank}"


def _on_integers(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.qdq:
        if node.op_type == QUANTIZE:
            for reader in graph.readers(node.output[0]):
                if reader.op_type != DEQUANTIZE:
                    said = f"{reader.op_type} reads the integers of a QuantizeLinear"
                    yield graph.name(reader), f"{said}: put a DequantizeLinear between"


def _both_operands(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if node.op_type in WEIGHTED:
            quantized = [graph.is_dequantized(name) for name in node.input[:2]]
            if any(quantized) and not all(quantized):
                which = "weight" if quantized[0] else "input"
                said = f"the {which} of {node.op_type} has no Q/DQ, so that it runs in float"
                yield graph.name(node), f"{said}: quantize both operands"


def _in_float(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    if not graph.qdq:
        return
    for node in graph.nodes:
        if node.op_type in WEIGHTED and not any(graph.is_dequantized(name) for name in node.input[:2]):
            yield graph.name(node), f"{node.op_type} has no Q/DQ at its inputs, so that it runs in FP16 or FP32"


def _fusion(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if node.op_type not in WEIGHTED:
            continue
        for reader in graph.readers_behind_qdq(node.output[0]):
            if reader.op_type in FUSED:
                said = f"Q/DQ stand between {node.op_type} '{graph.name(node)}' and {reader.op_type}"
                yield graph.name(reader), f"{said}, which TensorRT would compute in one kernel: quantize after {reader.op_type}"


def _residual(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.nodes:
        if node.op_type != "Add" or len(node.input) != 2 or any(graph.is_constant(name) for name in node.input):
            continue
        sources = [graph.writer(name) for name in node.input]
        fused = [
            source is not None and source.op_type in WEIGHTED and any(graph.is_dequantized(n) for n in source.input[:2])
            for source in sources
        ]
        plain = [not weighted and not graph.is_dequantized(name) for weighted, name in zip(fused, node.input, strict=True)]
        if any(fused) and any(plain):
            said = "the residual operand of Add has no Q/DQ, so that the convolution's kernel does not add it"
            yield graph.name(node), f"{said}: quantize it"


def _wasted(graph: QdqGraph) -> Iterator[tuple[str, str]]:
    for node in graph.qdq:
        if node.op_type != QUANTIZE or graph.is_weight(node):
            continue
        readers = graph.readers_behind_qdq(node.input[0])
        if readers and not any(reader.op_type in WEIGHTED or reader.op_type in INT8 for reader in readers):
            kinds = ", ".join(sorted({reader.op_type for reader in readers}))
            yield graph.name(node), f"only {kinds} reads these integers, which TensorRT runs in FP16: leave this Q/DQ out"


#: Every rule, demands before advice.
RULES = (
    Rule("operators", "error", "Q/DQ are QuantizeLinear and DequantizeLinear around float operators", _operators),
    Rule("symmetric", "error", "every zero point is 0", _symmetric),
    Rule("types", "error", "integers are int8 (int4 for weights alone), and a bias is float", _types),
    Rule("scales", "error", "a scale is a constant above 0", _scales),
    Rule("per_tensor", "error", "an activation has one scale", _per_tensor),
    Rule("channel_axis", "error", "a weight has one scale, or one for each output channel", _channel_axis),
    Rule("on_integers", "error", "integers stand between a QuantizeLinear and a DequantizeLinear alone", _on_integers),
    Rule("both_operands", "warning", "all inputs of an operator with weights are quantized, or none", _both_operands),
    Rule("in_float", "warning", "operators with weights are quantized", _in_float),
    Rule("fusion", "warning", "nothing stands between an operator with weights and the activation behind it", _fusion),
    Rule("residual", "warning", "the other operand of an Add behind a convolution is quantized", _residual),
    Rule("wasted", "warning", "what runs in FP16 (softmax, LayerNorm, functions) reads no quantized values", _wasted),
)  # fmt: skip
