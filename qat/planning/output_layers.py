"""The layers whose values leave a model, and the rules that let them leave unrounded."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .placement import moves
from .plan import Plan, PlannedOp
from .recipe import QuantSpec, Rule


def output_layers(plan: Plan, output: str) -> tuple[PlannedOp, ...]:
    """Return the operators of integer weights or activations that compute an output: those before it, through data movement.

    Args:
        plan: of the model.
        output: a tensor of ``plan.graph.outputs``.
    """
    producers = {tensor: planned for planned in plan.ops for tensor in planned.op.outputs}
    seen: dict[str, PlannedOp] = {}
    waiting = [output]
    while waiting:
        planned = producers.get(waiting.pop())
        if planned is None or not (planned.integer or planned.stored) or planned.op.name in seen:
            continue
        seen[planned.op.name] = planned
        if moves(planned.op):
            waiting.extend(planned.op.inputs)
    return tuple(planned for planned in seen.values() if not moves(planned.op))


def unrounded(plan: Plan, layers: Iterable[PlannedOp]) -> tuple[Rule, ...]:
    """Return rules by which layers keep their integer weights and write float values: the target's dynamic kernels run them.

    Empty where one of them has no weight or an activation of its own behind it, or the target has no such kernel for it.
    """
    kernels = plan.target.modes.stored.get("dynamic", {})
    rules = []
    for planned in layers:
        if planned.stored:  # it writes float
            continue
        op, weight = planned.op, planned.weight
        if op.kind not in kernels or weight is None:
            return ()
        kept = QuantSpec(bits=weight.bits, symmetric=True, granularity=weight.granularity)
        rules.append(Rule(scope=f"^{re.escape(op.layer)}$", op=op.kind, mode="dynamic", weight=kept))
    return tuple(rules)
