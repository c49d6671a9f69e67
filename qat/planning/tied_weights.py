"""Tied weights: the table of an embedding that is the weight of the output head, too, is held once, in the head's integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qat.graph.graph import Graph

from .plan import PlannedOp
from .recipe import Rule
from .targets import Target


def tie(planned: Sequence[PlannedOp], rules: Mapping[str, Rule | None], graph: Graph, target: Target) -> list[PlannedOp]:
    """Return planned operators in which an embedding reads its rows from the weight of a dense layer that has the same parameter.

    The rows have the layer's scales: one for each output of the layer. An embedding on the integer grid then writes integers of
    a scale of its own, as before; one that no integer kernel runs writes the rows' real values.

    Args:
        planned: of a graph, in order.
        rules: of each operator, by its name. An embedding that its rule leaves float keeps a table of its own.
        graph: the model.
        target: its kernels.
    """
    heads: dict[str, PlannedOp] = {}
    for p in planned:
        # A weight of an embedding lies as the rows of a dense layer's: [outputs, inputs].
        if p.op.kind == "dense" and p.op.attrs.get("channel_axis") == 0 and (p.integer or p.stored):
            heads.setdefault(p.op.params["weight"], p)
    return [_tied(p, heads.get(p.op.params.get("weight", "")), rules[p.op.name], graph, target) for p in planned]


def _tied(p: PlannedOp, head: PlannedOp | None, rule: Rule | None, graph: Graph, target: Target) -> PlannedOp:
    if p.op.kind != "embedding" or head is None or rule is None or rule.mode == "float":
        return p
    form = replace(p, weight=head.weight, qmax=head.qmax, packed=head.packed, tied=head.op.name)
    if p.integer:
        return p if head.weight is None else form
    if not target.modes.stored or graph.tensors[p.op.output].dtype != "float32":
        return p
    return replace(form, reason="", mode="float16" if head.weight is None else "weight_only", kernels="float")
