"""Tensors that share one scale with far larger ones: few of the integers are left to them, and training cannot mend that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qat.planning.placement import moves
from qat.planning.plan import Plan

from .doubts import Doubt

#: Below so many steps between its least and its greatest value a tensor of a shared scale is said to be coarse.
FEW_STEPS = 16


def coarse_members(plan: Plan, grids: Mapping[str, Any]) -> Iterator[Doubt]:
    """Yield a doubt for each concatenation or stack in one scale, of whose inputs one spans less than :data:`FEW_STEPS` steps.

    Args:
        plan: of a model that was just calibrated.
        grids: its grids by group, with the extremes of each tensor.
    """
    layers = {tensor: planned.op.layer for planned in plan.ops for tensor in planned.op.outputs}
    for planned in plan.ops:
        op = planned.op
        if not planned.integer or not moves(op) or len(set(op.inputs)) < 2:
            continue
        grid = grids[plan.group_of[op.output]]
        steps = {name: _steps(grid, name) for name in op.inputs}
        few = {name: count for name, count in steps.items() if 0 < count < FEW_STEPS}
        if few and len(few) < len(steps):
            name = min(few, key=few.__getitem__)
            whose, step = layers.get(name, name), float(grid.encoding.scale)
            yield Doubt(
                f"{op.layer}: its inputs share one scale, of which that of {whose} spans {few[name]:.1f} steps of {step:.3g}",
                f"a rule {{scope: '{op.layer}', op: {op.kind}, mode: float}} leaves each input a scale of its own",
            )


def _steps(grid: Any, tensor: str) -> float:
    low, high = grid.spans.ends.get(tensor, (0.0, 0.0))
    return (high - low) / float(grid.encoding.scale)
