"""Ranges before a hard swish, in which 3 is a whole number of steps: the function is then one product of integers.

See :mod:`qat.arithmetic.hard_functions`. The step grows to the next of the form 3 / n, mostly by one or two percent.
"""

from __future__ import annotations

from collections.abc import Mapping

from qat.arithmetic.encoding import Encoding, from_range
from qat.arithmetic.hard_functions import gate_of
from qat.graph.kinds import KINDS
from qat.planning.plan import Group, Plan, PlannedOp
from qat.typing import Grid

#: A step grows to this many times itself at most, a tenth of a bit; a hard swish that would need more keeps its slower kernel.
_GROWTH = 1.125


def whole_steps(plan: Plan, grids: Mapping[str, Grid]) -> None:
    """Widen each range that a hard swish reads, where little is enough. A second call changes nothing."""
    written_by_functions = {plan.group_of[p.op.output] for p in plan.ops if is_function(p)}
    for name in read_in_whole_steps(plan):
        # The ranges of functions move for another reason: qat.calibration.clear_borders.
        if name not in written_by_functions and is_free(plan.groups[name]):
            found = _wide_enough(grids[name].encoding)
            if found is not None:
                grids[name].set_range(*found)


def is_function(planned: PlannedOp) -> bool:
    """Return whether an operator is a function of one tensor on integers."""
    return planned.integer and KINDS[planned.op.kind].function


def read_in_whole_steps(plan: Plan) -> tuple[str, ...]:
    """Return the groups that hard swishes read, in the model's order."""
    return tuple(dict.fromkeys(plan.group_of[p.op.inputs[0]] for p in plan.ops if p.integer and p.op.kind == "hard_swish"))


def is_free(group: Group) -> bool:
    """Return whether a range may be any."""
    return group.fixed is None and not group.probabilities and not group.symmetric and group.spec.bits == 8


def _wide_enough(now: Encoding) -> tuple[float, float] | None:
    """Return the least range that has the integers of ``now`` and 3 in whole steps; None where it has that, or none is."""
    if gate_of(now) is not None:
        return None
    scale, steps = float(now.scale), now.qmax - now.qmin
    low, high = min(now.lo * scale, -3.0), now.hi * scale
    whole = int(3.0 * steps / (high - low))
    if whole < 1 or 3.0 / whole > _GROWTH * scale:
        return None
    step = 3.0 / whole
    below = round(-low / step)
    found = -below * step, (steps - below) * step
    return found if gate_of(from_range(*found, now.qmin, now.qmax)) is not None else None
