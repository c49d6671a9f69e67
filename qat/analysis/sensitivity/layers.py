"""The layers of a plan that can hurt: those with a weight or a scale of their own, and what each of them rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from qat.errors import ConfigError, nearest
from qat.graph.kinds import KINDS
from qat.planning.plan import Plan, PlannedOp
from qat.planning.rounding import EXACT, Rounding, Variant

#: What of a layer is rounded.
Part: TypeAlias = Literal["weight", "activation", "both"]
PARTS: tuple[Part, ...] = get_args(Part)

#: The kind of a model's input, which is quantized where it enters.
INPUT = "input"

#: Operators that share the scale of their inputs and nevertheless round: they compute values, or make several tensors share one.
_ROUND_ON_SHARED_SCALES = ("concat", "avg_pool2d", "upsample_bilinear2d")


@dataclass(frozen=True)
class Layer:
    """What a rule of a recipe can tell apart: the operators of one scope and kind. A model's input is a layer, too.

    Every rounding belongs to one layer: that of a weight to its operator, that of a tensor to the operator that writes it, though
    a float operator's output is rounded only where an integer kernel reads it. To first order, the losses of all layers therefore
    add up to that of the model.

    Attributes:
        name: the scope, as ``qat plan`` shows it and as the rules of recipes match it.
        kind: of the operators; ``input`` for an input of the model.
        weight: what rounds its weights; empty where it has none.
        activation: what rounds its activations; empty where nothing does.
    """

    name: str
    kind: str
    weight: Variant
    activation: Variant

    def variant(self, part: Part) -> Variant:
        """Return the roundings of a part; empty where the layer has none of it."""
        if part != "both":
            return self.weight if part == "weight" else self.activation
        names = dict.fromkeys((*self.weight, *self.activation))
        return {
            name: Rounding(
                self.weight.get(name, EXACT).weight,
                self.weight.get(name, EXACT).activation or self.activation.get(name, EXACT).activation,
            )
            for name in names
        }


def check_part(part: str) -> None:
    """Raise ConfigError unless there is such a part."""
    if part not in PARTS:
        raise ConfigError(f"what: '{part}' is no part of a layer{nearest(part, PARTS)}; valid: {', '.join(PARTS)}")


def layers_of(plan: Plan) -> tuple[Layer, ...]:
    """Return the layers of a plan that round something, inputs of the model first, else in the order of the operators."""
    entering = set(plan.quantize)
    found: dict[tuple[str, str], tuple[dict[str, Rounding], dict[str, Rounding]]] = {}
    for name in plan.graph.inputs:
        if name in entering:
            found[name, INPUT] = ({}, {name: Rounding(activation=True)})
    for p in plan.ops:
        weight, activation = _roundings(p, plan, bool(entering.intersection(p.op.outputs)))
        if weight == activation == EXACT:
            continue
        weights, activations = found.setdefault((p.op.layer, p.op.label), ({}, {}))
        weights |= {p.op.name: weight} if weight != EXACT else {}
        activations |= {p.op.name: activation} if activation != EXACT else {}
    return tuple(Layer(name, kind, *variants) for (name, kind), variants in found.items())


def _roundings(p: PlannedOp, plan: Plan, enters: bool) -> tuple[Rounding, Rounding]:
    """Return what rounds the weight of an operator, and what rounds its activations."""
    if not p.integer:
        weight = Rounding(weight=True) if p.stored else EXACT
        return weight, Rounding(activation=True) if enters or p.mode == "dynamic" else EXACT
    if KINDS[p.op.kind].output_grid:  # a parameter on the output's grid: its rounding is the output's
        return Rounding(activation=True), EXACT
    row = plan.target.row(p.op.kind)
    own = row is not None and (row.output != "as_input" or p.op.kind in _ROUND_ON_SHARED_SCALES)
    return Rounding(weight=p.weight is not None), Rounding(activation=own)
