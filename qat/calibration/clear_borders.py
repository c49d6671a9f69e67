"""Scales of functions, moved by so little that no result lies near a border between two integers.

An ``.onnx`` holds a function as a float operator, ten times as quick as a table, where its rounding cannot change an integer; a
``.tflite`` holds it as a kernel that makes its table in float32 (:mod:`qat.arithmetic.float_functions`). That fails for one
function in ten by chance: one of its 256 results is next to a border. The output's scale is ours: a few 2^-14 of it move the
results away; where a kernel prescribes it, those of the input's do. The range changes in the model itself, so that model and
artifact compute alike. What a hard swish reads is widened too, for either format: :mod:`qat.calibration.whole_steps`; and so are
outputs whose steps are too fine for a kernel: :mod:`qat.calibration.fine_outputs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from qat.arithmetic.encoding import Encoding, from_range
from qat.arithmetic.float_functions import float_is_exact, in_float
from qat.frameworks import adapter_for, framework_of
from qat.planning.plan import Group, Plan, PlannedOp
from qat.typing import Grid, PreparedModel

from .fine_outputs import widen_fine_outputs
from .whole_steps import is_free, is_function, read_in_whole_steps, whole_steps

#: By how much of itself a range grows from one trial to the next, and the most trials: 0.8 % in all.
_STEP, _TRIALS = 2.0**-14, 128
#: No range is wider: its scale would not be a number.
_MOST = float(np.finfo(np.float32).max)

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
    adapter = adapter_for(framework)
    grids: Mapping[str, Grid] = adapter.grids(model)
    plan = model.plan
    widen_fine_outputs(model, adapter, grids)
    if plan.target.suffix:
        whole_steps(plan, grids)
        for name, functions in (*_fixed_by_source(plan), *_free_by_output(plan)):
            found = _wide_enough(plan, name, functions, grids)
            if found is not None:
                grids[name].set_range(*found)


def _fixed_by_source(plan: Plan) -> Iterator[tuple[str, list[PlannedOp]]]:
    """Yield the ranges that functions with a prescribed output read, and nothing else bounds, with these functions."""
    written = {plan.group_of[p.op.output] for p in plan.ops if is_function(p)}
    found: dict[str, list[PlannedOp]] = {}
    for planned in _floats(plan):
        if plan.groups[plan.group_of[planned.op.output]].fixed is not None:
            found.setdefault(plan.group_of[planned.op.inputs[0]], []).append(planned)
    kept = written | set(read_in_whole_steps(plan))
    yield from ((name, functions) for name, functions in found.items() if name not in kept and is_free(plan.groups[name]))


def _free_by_output(plan: Plan) -> Iterator[tuple[str, list[PlannedOp]]]:
    """Yield the ranges that functions write, with these functions, in the model's order: an input's range is found first."""
    found: dict[str, list[PlannedOp]] = {}
    for planned in _floats(plan):
        found.setdefault(plan.group_of[planned.op.output], []).append(planned)
    yield from ((name, functions) for name, functions in found.items() if plan.groups[name].fixed is None)


def _floats(plan: Plan) -> Iterator[PlannedOp]:
    """Yield the functions on integers that the runtime may compute in float."""
    yield from (p for p in plan.ops if is_function(p) and in_float(p.op.kind, plan.target.kernels))


def _wide_enough(plan: Plan, name: str, functions: Iterable[PlannedOp], grids: Mapping[str, Grid]) -> Range | None:
    """Return the least range for which all functions are exact in float; None where it has that, or none is."""
    group, now = plan.groups[name], grids[name].encoding
    ends = [(p.op, plan.group_of[p.op.inputs[0]], plan.group_of[p.op.output]) for p in functions]
    given = {end: grids[end].encoding for _, *both in ends for end in both}
    for wanted, encoding in _trials(group, now):
        known = given | {name: encoding}
        if all(float_is_exact(op.kind, op.attrs, known[x], known[y], plan.target.kernels) for op, x, y in ends):
            return wanted
    return None


def _trials(group: Group, now: Encoding) -> Iterator[tuple[Range | None, Encoding]]:
    """Yield the encoding as it is, without a range, then wider and wider ranges and their encodings."""
    yield None, now
    scale, high = float(now.scale), now.hi
    low = -high if group.symmetric else now.lo
    for trial in range(1, _TRIALS + 1):
        factor = scale * (1.0 + trial * _STEP)
        wider = (low * factor, high * factor)
        if wider[1] - wider[0] > _MOST:  # a mask of the least number of its type
            return
        yield wider, from_range(*wider, group.qmin, group.qmax, group.symmetric)
