"""Masks of attention: the operators between a product and a softmax stay float where a mask takes part in them.

A mask shifts scores by thousands, or to minus infinity. One scale for the mask and the scores would leave the scores no integers.
A learned bias, of positions for example, is no mask: its addition runs in integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from .attention import product, softmax
from .move_ops import MOVES

aten = torch.ops.aten

#: The reason in a plan why these operators stay float.
REASON = "a mask takes part in these scores: one scale for both would leave the scores no integers"
#: Operators that only change the shape of the scores, their first operand.
_SHAPES = {aten.reshape.default, aten.view.default, aten.unsqueeze.default, aten.squeeze.dim, *MOVES}
_FILLS = (aten.masked_fill.Scalar, aten.masked_fill.Tensor)


def beside_masks(graph: fx.Graph, learned: Iterable[str]) -> set[fx.Node]:
    """Return the operators that a mask keeps float: those between product and softmax, and those that only make the mask.

    Args:
        graph: the captured graph, rewritten.
        learned: the names of the placeholders of parameters.
    """
    learned, found = frozenset(learned), set()
    for node in graph.nodes:
        if node.target is softmax:
            chain, others = _to_product(node.args[0])
            if any(not _is_learned(other, learned) for other in others):
                found |= {*chain, node}
    if found:
        for node in reversed(list(graph.nodes)):
            if node.op == "call_function" and node.users and node.target is not product and all(u in found for u in node.users):
                found.add(node)
    return found


def _to_product(node: Any) -> tuple[list[fx.Node], list[Any]]:
    """Return the operators from a softmax's input back to a product, and their other operands; both empty without a product."""
    if not isinstance(node, fx.Node):
        return [], []
    if node.target is product:
        return [], []
    ways: list[tuple[Any, list[Any]]] = []
    if node.target in _SHAPES or (node.target is aten.mul.Tensor and not isinstance(node.args[1], fx.Node)):
        ways = [(node.args[0], [])]
    elif node.target is aten.add.Tensor:
        ways = [(node.args[0], [node.args[1]]), (node.args[1], [node.args[0]])]
    elif node.target in _FILLS:
        ways = [(node.args[0], [node.args[1]])]
    elif node.target is aten.where.self:
        ways = [(node.args[1], [node.args[0], node.args[2]]), (node.args[2], [node.args[0], node.args[1]])]
    for scores, others in ways:
        if isinstance(scores, fx.Node) and _holds_product(scores):
            chain, more = _to_product(scores)
            return [node, *chain], [*others, *more]
    return [], []


def _holds_product(node: fx.Node) -> bool:
    """Return whether additions, scalings and changes of shape lead from a product to a node."""
    if node.target is product:
        return True
    steps = (*_SHAPES, *_FILLS, aten.add.Tensor, aten.mul.Tensor, aten.where.self)
    return node.target in steps and any(_holds_product(a) for a in node.all_input_nodes)


def _is_learned(other: Any, learned: frozenset[str]) -> bool:
    """Return whether an operand is a number, or is computed from parameters and from no other float tensor."""
    if not isinstance(other, fx.Node):
        return True
    if other.op == "placeholder":
        return other.name in learned
    value = other.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return False
    values = [(node, node.meta.get("val")) for node in other.all_input_nodes]
    floats = [node for node, value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
    return bool(floats) and all(_is_learned(node, learned) for node in floats)
