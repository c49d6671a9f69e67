"""Groups of tensors that share one activation scale, and the width, symmetry and prescribed scale of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qat.arithmetic.int16 import LIMITS as INT16_LIMITS
from qat.errors import ConfigError
from qat.graph.kinds import KINDS

from .plan import Group, PlannedOp
from .recipe import QuantSpec, Rule
from .targets import Fixed, Row, Target


def share_scales(planned: Sequence[PlannedOp], rules: Mapping[str, Rule], target: Target, borders: set[str]) -> dict[str, Group]:
    """Group the tensors on the grid: inputs and outputs of an ``as_input`` operator share one scale.

    Args:
        planned: the operators, in order.
        rules: the rule that applies to each integer operator, by its name.
        target: has a row for each integer operator.
        borders: the tensors that are quantized or dequantized. They have 8 bits where the recipe asks for fewer.

    Raises:
        ConfigError: the activations of an operator would have two widths.
    """
    rows = {p.op.name: row for p in planned if p.integer and (row := target.row(p.op.kind)) is not None}
    integer = [p for p in planned if p.op.name in rows]
    demands = _demands(integer, rows, rules)
    learnable = {t for p in planned if KINDS[p.op.kind].learnable_output for t in p.op.outputs}
    groups = {
        root: _group(root, tensors, demands, target, borders, learnable.issuperset(tensors))
        for root, tensors in _sets(integer, rows).items()
    }
    _check_widths(integer, {t: group for group in groups.values() for t in group.tensors})
    return groups


def _sets(integer: Sequence[PlannedOp], rows: Mapping[str, Row]) -> dict[str, list[str]]:
    """Return the sets of tensors that share a scale, each by its earliest tensor, whatever the order of their unions."""
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            name = parent[name]
        return name

    for p in integer:
        for name in (*p.grid_inputs, *p.op.outputs):
            find(name)
        if rows[p.op.name].output == "as_input":
            sharing = p.op.inputs[1:] if rows[p.op.name].second is None else ()
            for name in (*sharing, *p.op.outputs):
                parent[find(name)] = find(p.op.inputs[0])
    sets: dict[str, list[str]] = {}
    for name in parent:
        sets.setdefault(find(name), []).append(name)
    return sets


@dataclass
class _Demands:
    """Demands of the operators on single tensors: the rule's specification, a prescribed scale, the zero point 0."""

    specs: dict[str, QuantSpec] = field(default_factory=dict)
    fixed: dict[str, Fixed] = field(default_factory=dict)
    probabilities: set[str] = field(default_factory=set)
    centred: set[str] = field(default_factory=set)


def _demands(integer: Sequence[PlannedOp], rows: Mapping[str, Row], rules: Mapping[str, Rule]) -> _Demands:
    demands = _Demands()
    for p in integer:
        row = rows[p.op.name]
        for name in (*p.grid_inputs, *p.op.outputs):
            demands.specs.setdefault(name, rules[p.op.name].activation)
        demands.centred.update(p.op.inputs[place] for place in row.symmetric)
        if row.second is not None:
            demands.fixed[p.op.inputs[1]] = row.second
        if isinstance(row.output, Fixed):
            demands.fixed[p.op.output] = row.output
        elif row.output == "probabilities":
            demands.probabilities.update(p.op.outputs)
    return demands


def _group(
    root: str, tensors: Sequence[str], demands: _Demands, target: Target, borders: set[str], learnable: bool
) -> Group:  # fmt: skip
    spec = demands.specs[root]
    fixed = next((demands.fixed[t] for t in tensors if t in demands.fixed), None)
    probabilities = bool(demands.probabilities.intersection(tensors))
    prescribed = fixed is not None or probabilities
    if spec.bits < 8 and (prescribed or borders.intersection(tensors)):
        spec = spec.model_copy(update={"bits": 8, "learned": False})
    int16 = spec.bits == 16
    qmin, qmax = INT16_LIMITS if int16 else target.limits(spec.bits)
    asked = spec.symmetric or target.symmetric_activations or int16 or bool(demands.centred.intersection(tensors))
    symmetric = asked and not prescribed
    learned = spec.learned and not symmetric and learnable
    return Group(root, tuple(tensors), spec, qmin, qmax, symmetric, fixed, learned, probabilities=probabilities)


def _check_widths(integer: Sequence[PlannedOp], group_of: Mapping[str, Group]) -> None:
    """Refuse an operator with 16 bits beside fewer. Narrower widths mix: a kernel rescales in any case."""
    for p in integer:
        bits = sorted({group_of[t].spec.bits for t in (*p.grid_inputs, *p.op.outputs)})
        if len(bits) > 1 and 16 in bits:
            raise ConfigError(
                f"{p.op.layer}: its activations would have {' and '.join(map(str, bits))} bits, which no "
                "kernel mixes: let the rules of neighbouring layers agree in activation.bits"
            )
