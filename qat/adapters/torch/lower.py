"""Lowering: the prepared model's integers, as its nodes compute them, into a program."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from qat.adapters.torch.insert import SCOPE, PreparedModel
from qat.adapters.torch.nodes import Conv2d
from qat.lowering import build_program, grid_value_name, real_value_name
from qat.planner import PlannedOp
from qat.program import FloatBlock, Program

__all__ = ["grid_value_name", "lower"]


def lower(model: PreparedModel) -> Program:
    """Return the integer program of a calibrated model.

    Raises:
        CalibrationError: the model has not been calibrated.
    """
    encodings = {name: grid.encoding for name, grid in model.grids.items()}

    def integers(planned: PlannedOp) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        node = model.get_submodule(f"{SCOPE}.nodes.{planned.op.name}")
        assert isinstance(node, Conv2d)
        weight = model.get_parameter(planned.op.params["weight"])
        bias = model.get_parameter(planned.op.params["bias"]) if "bias" in planned.op.params else None
        with torch.no_grad():
            scale = node.weight_scale(weight, bias)
            w_int, b_int = node.quantized(weight, bias, scale)
        return (
            w_int.cpu().numpy().astype(np.int8),
            scale.cpu().numpy().astype(np.float32),
            None if b_int is None else b_int.cpu().numpy().astype(np.int32),
        )

    return build_program(model.plan, encodings, integers, _float_block(model))


def _float_block(model: PreparedModel) -> FloatBlock | None:
    """Gather the float operators into one module; between its inputs and outputs stand the integer kernels."""
    plan, names = model.plan, model.prepared.float_nodes
    if not names:
        return None
    floats = [p.op for p in plan.ops if not p.integer]
    written = {t for op in floats for t in op.outputs}
    inputs = tuple(dict.fromkeys(t for op in floats for t in op.inputs if t not in written))
    read = {t for op in floats for t in op.inputs}
    leaving = written & ({t for p in plan.ops if p.integer for t in p.op.inputs} | set(plan.graph.outputs))
    outputs = tuple(t for op in floats for t in op.outputs if t in leaving or t not in read)
    nodes = {n.name: n for n in model.graph.nodes}
    graph = fx.Graph()
    environment: dict[fx.Node, fx.Node] = {}
    placeholders = {t: graph.placeholder(real_value_name(plan, t)) for t in inputs}
    any_input = next(iter(placeholders.values()))
    real = dict(placeholders)

    def translate(node: fx.Node) -> fx.Node:
        if node in environment:
            return environment[node]
        if node.op == "get_attr":
            environment[node] = graph.node_copy(node)
        elif node.op == "call_function":
            # The size of a tensor outside the block is only ever the batch, which all tensors share.
            environment[node] = graph.node_copy(node, lambda n: environment.get(n, any_input))
        return environment[node]

    for op in floats:
        node = nodes[names[op.name]]
        for source in node.all_input_nodes:
            tensor = _tensor_behind(source, model)
            if tensor in real:
                environment[source] = real[tensor]
        real[op.output] = environment[node] = graph.node_copy(node, translate)
    graph.output(tuple(real[t] for t in outputs))
    return FloatBlock(
        "torch",
        fx.GraphModule(model, graph).eval(),
        tuple(real_value_name(plan, t) for t in inputs),
        outputs,
    )


def _tensor_behind(node: fx.Node, model: PreparedModel) -> str:
    """Return the graph tensor that a node of the prepared model holds in float."""
    prefix = f"{SCOPE}.dequantize."
    if node.op == "call_module" and str(node.target).startswith(prefix):
        return str(node.target).removeprefix(prefix)
    if node.op == "placeholder":
        return str(node.target)
    by_node = {fx_name: name for name, fx_name in model.prepared.float_nodes.items()}
    return by_node.get(node.name, "")
