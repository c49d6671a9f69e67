"""Tied weights: the table of an embedding that is the weight of the output head, too, is held once, in the head's integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qat.graph.graph import Graph, Op

from .plan import PlannedOp
from .recipe import Rule
from .targets import Target


def tie(planned: Sequence[PlannedOp], rule_of: Callable[[Op], Rule | None], graph: Graph, target: Target) -> list[PlannedOp]:
    """Return planned operators in which an embedding reads its rows from the weight of a dense layer that has the same parameter.

    The rows have the layer's scales: one for each output of the layer. An embedding on the integer grid then writes integers of
    a scale of its own, as before; one that no integer kernel runs writes the rows' real values.

    Args:
        planned: of a graph, in order.
        rule_of: gives an operator's rule. An embedding that its rule leaves float keeps a table of its own.
        graph: the model.
        target: its kernels.
    """
    heads: dict[str, PlannedOp] = {}
    for p in planned:
        # A weight of an embedding lies as the rows of a dense layer's: [outputs, inputs].
        if p.op.kind == "dense" and p.op.attrs.get("channel_axis") == 0 and (p.integer or p.stored):
            heads.setdefault(p.op.params["weight"], p)
    return [
        _tied(p, heads[p.op.params["weight"]], rule_of(p.op), graph, target)
        if p.op.kind == "embedding" and p.op.params["weight"] in heads
        else p
        for p in planned
    ]


def _tied(p: PlannedOp, head: PlannedOp, rule: Rule | None, graph: Graph, target: Target) -> PlannedOp:
    if rule is None or rule.mode == "float":
        return p
    form = replace(p, weight=head.weight, qmax=head.qmax, packed=head.packed, tied=head.op.name)
    if p.integer:
        return p if head.weight is None else form
    if not target.modes.stored or graph.tensors[p.op.output].dtype != "float32":
        return p
    return replace(form, reason="", mode="float16" if head.weight is None else "weight_only", kernels="float")
