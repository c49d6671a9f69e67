"""Lowering: the integers of a prepared model, as its nodes compute them, become a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from qat.adapters.torch.autograd.moves import captured_kwargs, parts_of
from qat.adapters.torch.nodes.attention import Embedding
from qat.adapters.torch.nodes.in_order import STANDS_FOR
from qat.adapters.torch.nodes.kept_zeros import KeptZeros
from qat.adapters.torch.nodes.linear import Conv2d
from qat.adapters.torch.nodes.stored_weight import StoredWeight
from qat.planning.plan import Plan, PlannedOp
from qat.program.build import block_border, build_program, grid_value_name, real_value_name
from qat.program.caller_names import caller_names
from qat.program.program import FrameworkBlock, Program

from .prepared_model import SCOPE, PreparedModel

#: A weight, the scale of each of its output channels, and a bias, as a program holds them.
Integers = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def lower(model: PreparedModel, outputs: Sequence[str] | None = None) -> Program:
    """Return the integer program of a calibrated model; ``outputs``: those of the graph's that it is to return, by default all.

    Raises:
        CalibrationError: the model has not been calibrated.
    """
    plan = model.plan if outputs is None else model.plan.returning(outputs)
    encodings = {name: grid.encoding for name, grid in model.grids.items()}

    def integers(planned: PlannedOp) -> Integers:
        node = model.get_submodule(f"{SCOPE}.nodes.{planned.op.name}")
        weight = model.tensor(planned.op.params["weight"])
        if isinstance(node, Embedding):
            return _of_lines(node, weight)
        bias = model.tensor(planned.op.params["bias"]) if "bias" in planned.op.params else None
        if isinstance(node, StoredWeight):
            return _of_stored(node, weight, bias)
        assert isinstance(node, Conv2d)
        return _of_integer(node, weight, bias)

    def parameter(name: str) -> np.ndarray:
        return model.tensor(name).detach().cpu().float().numpy()

    program = build_program(plan, encodings, integers, parameter, _block(model, plan))
    origin = model.prepared.origin
    inputs = model.prepared.signature.input_names if origin is None else tuple(tensor.name for tensor in origin.inputs)
    return replace(program, input_names=inputs, output_names=_output_names(model, plan), origin=origin)


def _output_names(model: PreparedModel, plan: Plan) -> tuple[str, ...]:
    """Return the keys of the user's outputs, or ``output_0``, ``output_1``, ... where they are not in a dict.

    Those of a model that was read from a file are called as in the file.
    """
    signature = model.prepared.signature
    leaves, paths = signature.leaves, signature.output_paths
    if model.prepared.origin is None:
        names = caller_names(paths, [f"output_{index}" for index in range(len(paths))])
    else:
        names = tuple(tensor.name for tensor in model.prepared.origin.outputs)
    by_tensor = dict(reversed([*zip(leaves, names, strict=True)]))
    return tuple(by_tensor[tensor] for tensor in plan.graph.outputs)


@torch.no_grad()
def _of_integer(node: Conv2d, weight: Tensor, bias: Tensor | None) -> Integers:
    weight = node.program_layout(weight)
    scale = node.weight_scale(weight, bias)
    w_int, b_int = node.quantized(weight, bias, scale)
    width = np.int64 if node.planned.kernels == "int16" else np.int32
    held = None if b_int is None else b_int.cpu().numpy().astype(width)
    return w_int.cpu().numpy().astype(np.int8), scale.cpu().numpy().astype(np.float32), held


@torch.no_grad()
def _of_lines(node: Embedding, weight: Tensor) -> Integers:
    held, scale = node.held(weight)
    dtype = np.float16 if node.planned.weight is None else np.int8
    return held.cpu().numpy().astype(dtype), scale.cpu().numpy(), None


@torch.no_grad()
def _of_stored(node: StoredWeight, weight: Tensor, bias: Tensor | None) -> Integers:
    w, scale = node.quantized(node.program_layout(weight))
    dtype = np.float16 if node.planned.weight is None else np.int8
    return w.cpu().numpy().astype(dtype), scale.cpu().numpy(), None if bias is None else bias.detach().cpu().numpy()


def _block(model: PreparedModel, plan: Plan) -> FrameworkBlock | None:
    """Return one module of all operators that keep PyTorch's implementation; the integer kernels stand around it."""
    names = {p.op.name: model.prepared.kept_nodes[p.op.name] for p in plan.ops if p.keeps_framework}
    if not names:
        return None
    inputs, outputs = block_border(plan)
    nodes = {n.name: n for n in model.graph.nodes}
    # The integers of an input where it has some: an artifact with integer inputs has no float ones.
    measured = {node: grid_value_name(plan, str(node.target)) for node in _measured([nodes[name] for name in names.values()])}
    # They come first: a size that several inputs share is read from the first, and these need no operator before them.
    inputs = tuple(dict.fromkeys((*measured.values(), *inputs)))
    values = _values(model, plan)
    computed = model.computed
    weights = {node: name for name, node in computed.items()}
    graph = fx.Graph()
    environment: dict[fx.Node, fx.Node] = {}
    made = {name: graph.placeholder(name) for name in inputs}
    environment |= {node: made[name] for node, name in measured.items()}

    def translate(node: fx.Node) -> fx.Node:
        if node in environment:
            return environment[node]
        if node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), KeptZeros):
            environment[node] = translate(node.all_input_nodes[0])
        elif node in weights:
            environment[node] = graph.get_attr(weights[node])
        elif node.op == "get_attr":
            environment[node] = graph.node_copy(node)
        elif node.op == "call_function":
            environment[node] = graph.node_copy(node, translate)
        return environment[node]

    for planned in plan.ops:
        if not planned.keeps_framework:
            continue
        node = nodes[names[planned.op.name]]
        for source in node.all_input_nodes:
            value = values.get(source.name, "")
            if value in made:
                environment[source] = made[value]
        copied = made[planned.op.output] = environment[node] = graph.node_copy(node, translate)
        if node.target in STANDS_FOR:
            copied.target, copied.kwargs = STANDS_FOR[node.target], captured_kwargs(copied)
    graph.output(tuple(made[name] for name in outputs))
    for together in graph.find_nodes(op="call_function", target=parts_of):  # each reader is its captured operator again
        graph.erase_node(together)
    # A weight that is computed from parameters has its value at last.
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    root: Any = model
    if computed.keys() & read:
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        root = {name: model.tensor(name).detach() for name in read} | {name: model.get_submodule(name) for name in called}
    return FrameworkBlock("torch", fx.GraphModule(root, graph).eval(), inputs, outputs)


def _measured(nodes: list[fx.Node]) -> list[fx.Node]:
    """Return the model's inputs whose sizes, mostly the batch, operators read, directly or through arithmetic."""
    found: dict[fx.Node, None] = {}
    waiting, seen = [*nodes], set(nodes)
    while waiting:
        node = waiting.pop()
        for source in node.all_input_nodes:
            if node.target is torch.ops.aten.sym_size.int and source.op == "placeholder":
                found[source] = None
            is_size = source.op == "call_function" and not isinstance(source.target, torch._ops.OpOverload)
            if source not in seen and (is_size or source.target is torch.ops.aten.sym_size.int):
                seen.add(source)
                waiting.append(source)
    return list(found)


def _values(model: PreparedModel, plan: Plan) -> dict[str, str]:
    """Return the program's value that each tensor node of the prepared model holds."""
    found = {}
    kept = {model.prepared.kept_nodes[p.op.name]: p.op.output for p in plan.ops if p.keeps_framework}
    stored = {f"{SCOPE}.nodes.{p.op.name}": p.op.output for p in plan.ops if p.stored}
    for node in model.graph.nodes:
        target = str(node.target)
        if node.op == "placeholder":
            found[node.name] = target
        elif node.op == "call_module" and target.startswith(f"{SCOPE}.dequantize."):
            found[node.name] = real_value_name(plan, target.removeprefix(f"{SCOPE}.dequantize."))
        elif node.op == "call_module" and target.startswith(f"{SCOPE}.acts."):  # the identity outside training
            known = found.get(node.all_input_nodes[0].name)
            found[node.name] = real_value_name(plan, str(model.get_submodule(target).tensor)) if known is None else known
        elif node.name in kept:
            found[node.name] = kept[node.name]
        elif target in stored:
            found[node.name] = stored[target]
    return found | {node: grid_value_name(plan, tensor) for tensor, node in model.prepared.forms.items()}
