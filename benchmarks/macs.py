"""The multiply-accumulates of an artifact and the share that integer kernels run, in the graph that the runtime really runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qat.runtimes import format_of

#: ONNX Runtime's operators that multiply and accumulate: the positions of both factors, and whether they compute in integers.
#: Float operators have these names in all of ONNX Runtime's domains (NCHWc and NHWC layouts, fused activations).
_ONNX: dict[str, tuple[int, int, bool]] = {
    "Conv": (0, 1, False),
    "FusedConv": (0, 1, False),
    "NhwcFusedConv": (0, 1, False),
    "ConvTranspose": (0, 1, False),
    "Gemm": (0, 1, False),
    "FusedGemm": (0, 1, False),
    "MatMul": (0, 1, False),
    "FusedMatMul": (0, 1, False),
    "QLinearConv": (0, 3, True),
    "QLinearConvTranspose": (0, 3, True),
    "ConvInteger": (0, 1, True),
    "QGemm": (0, 3, True),
    "QLinearMatMul": (0, 3, True),
    "MatMulInteger": (0, 1, True),
    "MatMulIntegerToFloat": (0, 1, True),
    "DynamicQuantizeMatMul": (0, 1, True),
}

#: LiteRT's operators that multiply and accumulate: the positions of both factors among the inputs.
_LITERT: dict[str, tuple[int, int]] = {
    "CONV_2D": (0, 1),
    "DEPTHWISE_CONV_2D": (0, 1),
    "CONV_3D": (0, 1),
    "TRANSPOSE_CONV": (2, 1),
    "FULLY_CONNECTED": (0, 1),
    "BATCH_MATMUL": (0, 1),
}

#: The size that is counted for a height or width that is not fixed.
FREE_SIZE = 64


@dataclass(frozen=True)
class Cost:
    """One operator: its multiply-accumulates for one sample, and whether they are of integers."""

    op: str
    macs: int
    integer: bool


def costs(path: str | Path) -> tuple[Cost, ...]:
    """Return the cost of each convolution and matrix product of an artifact, as its runtime runs it.

    Args:
        path: a ``.onnx`` or ``.tflite`` file. A batch of one is counted, and :data:`FREE_SIZE` for any other free size.
    """
    return _COSTS[format_of(Path(path)).name](Path(path))


def integer_share(of: Iterable[Cost]) -> float | None:
    """Return the share of multiply-accumulates in integer kernels; None where there are none at all."""
    of = tuple(of)
    total = sum(cost.macs for cost in of)
    return sum(cost.macs for cost in of if cost.integer) / total if total else None


def _onnx_costs(path: Path) -> tuple[Cost, ...]:
    import onnx

    from qat.runtimes.onnxruntime import OnnxSession

    session = OnnxSession(path)
    model = session.optimized_graph()
    nodes = [node for node in model.graph.node if node.op_type in _ONNX]
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    known = {o.name for o in (*model.graph.output, *model.graph.input)}
    wanted = {name for node in nodes for name in (*(node.input[i] for i in _ONNX[node.op_type][:2]), node.output[0])}
    extra = sorted(wanted - set(shapes) - known)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    # The shapes are those of a run: ONNX's shape inference does not know ONNX Runtime's operators.
    feeds = {
        i.name: np.zeros([d or (FREE_SIZE if axis else 1) for axis, d in enumerate(i.shape)], i.dtype) for i in session.inputs
    }
    found = OnnxSession(model.SerializeToString(), optimize=False).run_named(*feeds.values())
    shapes |= {name: value.shape for name, value in (*found.items(), *feeds.items())}
    out = []
    for node in nodes:
        x, weight, integer = _ONNX[node.op_type]
        factors = shapes[node.input[x]], shapes[node.input[weight]]
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        out.append(Cost(node.op_type, _onnx_macs(node.op_type, *factors, shapes[node.output[0]], transposed), integer))
    return tuple(out)


def _onnx_macs(op: str, x: Sequence[int], weight: Sequence[int], result: Sequence[int], transposed: bool) -> int:
    if "ConvTranspose" in op:  # each element of the input meets the filters of its channel, [in, out / groups, ...]
        return prod(x) * prod(weight[1:])
    if "Conv" in op:  # [out, in / groups, ...]
        return prod(result) * prod(weight[1:])
    return prod(result) * x[-2 if transposed else -1]


def _litert_costs(path: Path) -> tuple[Cost, ...]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Without the delegate, which would hide its operators behind one node. The delegate runs int8 operators as int8.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    tensors: dict[int, Any] = {t["index"]: t for t in interpreter.get_tensor_details()}
    out = []
    for op in interpreter._get_ops_details():
        name = op["op_name"]
        if name not in _LITERT:
            continue
        x, weight = (tensors[op["inputs"][i]] for i in _LITERT[name])
        result = tensors[op["outputs"][0]]
        shapes = (tuple(int(d) for d in t["shape"]) for t in (x, weight, result))
        integer = all(np.dtype(t["dtype"]).kind in "iu" for t in (x, weight, result))
        out.append(Cost(name, _litert_macs(name, *shapes), integer))
    return tuple(out)


def _litert_macs(op: str, x: Sequence[int], weight: Sequence[int], result: Sequence[int]) -> int:
    if op == "TRANSPOSE_CONV":  # [out, height, width, in]
        return prod(x) * prod(weight[:3])
    if op == "DEPTHWISE_CONV_2D":  # [1, height, width, out]
        return prod(result) * prod(weight[:3])
    if op == "CONV_3D":  # [depth, height, width, in, out]
        return prod(result) * prod(weight[:4])
    if op == "CONV_2D":  # [out, height, width, in / groups]
        return prod(result) * prod(weight[1:])
    return prod(result) * (weight[-1] if op == "FULLY_CONNECTED" else x[-1])


_COSTS = {"onnx": _onnx_costs, "tflite": _litert_costs}
