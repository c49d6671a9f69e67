"""Operators that read constants alone, evaluated once: numbers, buffers, and parameters that are not trained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from .match import is_tensor

aten = torch.ops.aten

#: Operators that read no value of their tensor, by the number that they fill a new one with; None for one that is given last.
_FILLED: dict[Any, float | None] = {
    aten.new_zeros.default: 0, aten.zeros_like.default: 0, aten.new_ones.default: 1, aten.ones_like.default: 1,
    aten.new_full.default: None, aten.full_like.default: None,
}  # fmt: skip


def fold_constants(graph: fx.Graph, owner: dict[str, str], tensors: dict[str, Tensor]) -> frozenset[str]:
    """Make a constant of each captured tensor that no input and no trained parameter takes part in.

    The nodes stay in the graph. ``owner`` and ``tensors`` get their values, as if they were buffers of the model. A number that
    is read from such a tensor stands itself in the operators that take it.

    Returns:
        The names of the nodes.
    """
    known, folded = known_constants(graph, owner, tensors), set[str]()
    for node, value in known.items():
        if node.op == "placeholder":
            continue
        if is_tensor(node):
            name = f"{node.name}_.value" if hasattr(nn.Module, node.name) else f"{node.name}.value"  # x.to(...) makes "to"
            while name in tensors:
                name += "_"
            owner[node.name], tensors[name] = name, value.detach()
            folded.add(node.name)
        elif isinstance(value, (bool, int, float)):
            for user in list(node.users):
                number = partial(_in_place_of, node, value)
                user.args, user.kwargs = fx.node.map_arg((user.args, user.kwargs), number)
    return frozenset(folded)


def copy_returned(graph: fx.Graph, owner: Mapping[str, str]) -> None:
    """Let a copy stand for each input, parameter and constant that a model returns: an output is what an operator writes."""
    (output,) = graph.find_nodes(op="output")
    copies: dict[fx.Node, fx.Node] = {}
    for node in output.all_input_nodes:
        if node.op == "placeholder" or node.name in owner:
            with graph.inserting_before(output):
                copies[node] = graph.call_function(aten.clone.default, (node,))
            copies[node].meta = dict(node.meta)
    output.args = fx.node.map_arg(output.args, lambda node: copies.get(node, node))


def known_constants(graph: fx.Graph, owner: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[fx.Node, Any]:
    """Return the values of the nodes that no input and no trained parameter takes part in, in the order of the graph."""
    known: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        name = owner.get(node.name) if node.op == "placeholder" else None
        if name is not None and isinstance(tensors[name], Tensor) and not tensors[name].requires_grad:
            known[node] = tensors[name]
        elif _is_computable(node) and all(source in known for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)
        elif _is_computable(node) and (number := filled_with(node)) is not None:
            known[node] = torch.full(node.meta["val"].shape, number, dtype=node.meta["val"].dtype)
    return known


def filled_with(node: fx.Node) -> float | None:
    """Return the number that an operator fills a tensor with, whatever the tensor is that it reads; None for any other."""
    if node.target not in _FILLED:
        return None
    number: Any = _FILLED[node.target]
    number = node.args[-1] if number is None else number
    return number if isinstance(number, (bool, int, float)) else None


def _is_computable(node: fx.Node) -> bool:
    """Whether a node computes the same values at any time: torch.export writes sizes that are not fixed as nodes of their own."""
    return not any(isinstance(v, torch.SymInt) for v in sizes_in(node.meta.get("val"))) and is_pure(node)


def is_pure(node: fx.Node) -> bool:
    """Whether a node computes the same values of the same tensors and sizes at any time, and changes none."""
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return bool(node.all_input_nodes) and not node.is_impure()
    return torch.Tag.nondeterministic_seeded not in node.target.tags and not node.target._schema.is_mutable


def _in_place_of(node: fx.Node, value: Any, argument: fx.Node) -> Any:
    return value if argument is node else argument


def sizes_in(value: Any) -> list[Any]:
    """Return the sizes of a tensor, or of each of several; what is no tensor is its own."""
    if isinstance(value, Tensor):
        return list(value.shape)
    return [size for part in value for size in sizes_in(part)] if isinstance(value, (tuple, list)) else [value]
