"""Equations of ``einsum`` in one spelling; those of several operands, and products element by element, are taken apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from qat.graph.einsum import spelled_out

from .rewriter import Rewriter, fake_mode

aten = torch.ops.aten


def in_pairs(equation: Any, *operands: Any) -> Tensor:
    """Return what ``torch.einsum`` does, of an equation that is :func:`spelled_out`; several operands go two by two."""
    if not isinstance(equation, str):
        return torch.einsum(equation, *operands)
    if isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    equation = spelled_out(equation, [operand.ndim for operand in operands])
    terms, _, result = equation.partition("->")
    labels = terms.split(",")
    if len(labels) < 3:
        return torch.einsum(equation, *operands)
    total = operands[0]
    for i, operand in enumerate(operands[1:], 1):
        later = {*result, *"".join(labels[i + 1 :])}
        part = result if i + 1 == len(labels) else "".join(c for c in dict.fromkeys(labels[0] + labels[i]) if c in later)
        total = torch.einsum(f"{labels[0]},{labels[i]}->{part}", total, operand)
        labels[0] = part
    return total


def open_einsums(graph: fx.Graph, derived: Collection[fx.Node]) -> None:
    """Write equations as a product element by element and a sum, in place, where one operand has all axes of the other one.

    Args:
        graph: as captured.
        derived: the nodes that no input of the model takes part in: of a product with a parameter a layer is made.
    """
    writer = Rewriter(graph, fake_mode(graph))
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is aten.einsum.default and (made := _opened(writer, node, derived)):
            node.replace_all_uses_with(made)
            graph.erase_node(node)


def _opened(w: Rewriter, n: Any, derived: Collection[fx.Node]) -> fx.Node | None:
    terms, _, result = str(n.args[0]).replace(" ", "").partition("->")
    labels, operands = terms.split(","), n.args[1]
    if len(labels) != 2 or not result or "." in terms or any(len(set(term)) < len(term) for term in labels):
        return None
    (a, x), (b, y) = sorted(zip(labels, operands, strict=True), key=lambda pair: -len(pair[0]))
    if not set(b) <= set(a) or x in derived or y in derived:
        return None
    y = _permuted(w, n, y, [b.index(c) for c in a if c in b])
    for axis, label in enumerate(a):
        if label not in b:
            y = w.call(n, aten.unsqueeze.default, y, axis)
    made = w.call(n, aten.mul.Tensor, x, y)
    if summed := [axis for axis, label in enumerate(a) if label not in result]:
        made = w.call(n, aten.sum.dim_IntList, made, summed)
    left = [c for c in a if c in result]
    return _permuted(w, n, made, [left.index(c) for c in result])


def _permuted(w: Rewriter, n: fx.Node, x: fx.Node, axes: list[int]) -> fx.Node:
    return x if axes == sorted(axes) else w.call(n, aten.permute.default, x, axes)
