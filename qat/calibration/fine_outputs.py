"""Outputs whose steps are far finer than their operator's sums: the ranges grow until a kernel computes with the scales.

One unit of a layer's sums is then hundreds of steps of its output, and a runtime's kernels refuse that (:data:`UNIT_LIMIT`). So
it is where a layer reads activations that have vanished, and its bias, or the one that training gave it, is all that is left of
its sums: the weight's scale has grown to hold the bias. Each integer of such an output is 0 or the range's end, and coarser
steps lose nothing. So it is where an average reads such an output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from qat.arithmetic.grid import UNIT_LIMIT
from qat.graph.receptive_windows import has_windows
from qat.planning.plan import Plan, PlannedOp
from qat.typing import Adapter, Grid, PreparedModel

#: The unit of sums after a range has grown, in steps: half the limit, so that rounding does not reach it.
_AFTER = UNIT_LIMIT / 2


def widen_fine_outputs(model: PreparedModel, adapter: Adapter, grids: Mapping[str, Grid]) -> None:
    """Widen each range whose steps are too fine for the operator that writes it. A second call changes nothing.

    A layer's weight may have another scale once the range that it reads has grown, so operators come in the model's order.
    """
    plan = model.plan
    for planned in filter(_has_unit, plan.ops):
        op, name = planned.op, plan.group_of[planned.op.output]
        if plan.groups[name].fixed is not None or plan.groups[name].probabilities:
            continue
        unit = float(grids[plan.group_of[op.inputs[0]]].encoding.scale)
        if op.kind == "mean":
            unit /= _count(plan, planned)
        else:
            unit *= float(adapter.layer_scale(model, op.name, op.params["weight"], op.params.get("bias")).max())
        now = grids[name].encoding
        if unit >= UNIT_LIMIT * float(now.scale):
            step = unit / _AFTER
            grids[name].set_range(now.lo * step, now.hi * step)


def _has_unit(planned: PlannedOp) -> bool:
    """Return whether an operator adds integers: products by a weight of its own, or those of an average."""
    layer = planned.weight is not None and "weight" in planned.op.params and has_windows(planned.op)
    return planned.integer and (layer or planned.op.kind == "mean")


def _count(plan: Plan, planned: PlannedOp) -> int:
    """Return how many numbers each average is of, at least: an axis of any size may have one."""
    shape = plan.graph.tensors[planned.op.inputs[0]].shape
    return math.prod(shape[axis] or 1 for axis in planned.op.attrs["axes"])
