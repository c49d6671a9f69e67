"""Output scales of functions, moved by so little that no result lies near a border between two integers.

An ``.onnx`` holds a function as a float operator, ten times as quick as a table, where its rounding cannot change an integer
(:mod:`qat.arithmetic.float_functions`). That fails for one function in ten by chance: one of its 256 results is next to a border.
The output's scale is ours: a few 2^-14 of it move the results away. The range changes in the model itself, so that model and
artifact compute alike. What a hard swish reads is widened too, for either format: :mod:`qat.calibration.whole_steps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qat.arithmetic.encoding import Encoding, from_range
from qat.arithmetic.float_functions import float_is_exact
from qat.frameworks import adapter_for, framework_of
from qat.graph.kinds import KINDS
from qat.planning.plan import Group, Plan, PlannedOp
from qat.typing import Grid, PreparedModel

from .whole_steps import whole_steps

#: By how much of itself a range grows from one trial to the next, and the most trials: 0.8 % in all.
_STEP, _TRIALS = 2.0**-14, 128

Range = tuple[float, float]


def clear_borders(model: PreparedModel) -> None:
    """Widen ranges that hard swishes read, and of functions whose results lie near a border, each by as little as is enough.

    A range that a kernel prescribes stays, and so does one for which no trial is enough. A second call changes nothing.

    Args:
        model: calibrated, of PyTorch or Keras 3; its ranges should not move any more.
    """
    framework = framework_of(model)
    if framework == "tf_keras":
        return
    grids: Mapping[str, Grid] = adapter_for(framework).grids(model)
    plan = model.plan
    if plan.target.suffix:
        whole_steps(plan, grids)
    if plan.target.suffix != ".onnx":
        return
    for name, writers in _functions_by_group(plan).items():
        if plan.groups[name].fixed is None:
            found = _wide_enough(plan, name, writers, grids)
            if found is not None:
                grids[name].set_range(*found)


def _functions_by_group(plan: Plan) -> dict[str, list[PlannedOp]]:
    """Return the functions in integers by the group that they write, in the model's order: an input's range is found first."""
    found: dict[str, list[PlannedOp]] = {}
    for planned in plan.ops:
        if planned.integer and KINDS[planned.op.kind].function:
            found.setdefault(plan.group_of[planned.op.output], []).append(planned)
    return found


def _wide_enough(plan: Plan, name: str, writers: Iterable[PlannedOp], grids: Mapping[str, Grid]) -> Range | None:
    """Return the least range for which all functions of a group are exact in float; None where it has that, or none is."""
    group, now = plan.groups[name], grids[name].encoding
    sources = [(p.op, plan.group_of[p.op.inputs[0]]) for p in writers]
    given = {source: grids[source].encoding for _, source in sources}
    for wanted, encoding in _trials(group, now):
        known = given | {name: encoding}
        if all(float_is_exact(op.kind, op.attrs, known[source], encoding) for op, source in sources):
            return wanted
    return None


def _trials(group: Group, now: Encoding) -> Iterator[tuple[Range | None, Encoding]]:
    """Yield the encoding as it is, without a range, then wider and wider ranges and their encodings."""
    yield None, now
    scale, high = float(now.scale), now.hi
    low = -high if group.symmetric else now.lo
    for trial in range(1, _TRIALS + 1):
        factor = scale * (1.0 + trial * _STEP)
        yield (low * factor, high * factor), from_range(low * factor, high * factor, group.qmin, group.qmax, group.symmetric)
