"""Recipes that leave layers at higher precision: the operators that have to be pinned, and what the planner keeps of that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qat.errors import ConfigError
from qat.graph.kinds import KINDS
from qat.planning.plan import Plan, PlannedOp
from qat.planning.recipe import QuantSpec, Recipe, Rule

from .layers import Layer

#: What pinned layers become.
Precision: TypeAlias = Literal["float", "int16"]

#: Of a layer's loss, the share of its weights from which its readers are left as they are.
_WEIGHTS_ALONE = 0.5

#: The rules' parts that differ from the recipe's, by precision.
_RULES: dict[Precision, dict[str, object]] = {
    "int16": {"mode": "static", "activation": QuantSpec(bits=16, symmetric=True)},
    "float": {"mode": "float"},
}


@dataclass(frozen=True, order=True)
class Pin:
    """Operators that a rule holds at higher precision: those of one scope and kind."""

    layer: str
    kind: str


@dataclass(frozen=True)
class PinnedRecipe:
    """A recipe with layers at higher precision.

    Attributes:
        recipe: the recipe.
        plan: of the model by this recipe.
        pins: the operators, in the order of the model.
        precision: of the pins.
    """

    recipe: Recipe
    plan: Plan
    pins: tuple[Pin, ...]
    precision: Precision


def pins_of(layer: Layer, plan: Plan, activation: bool) -> tuple[Pin, ...]:
    """Return what has to be pinned so that a layer rounds nothing.

    A weight needs its own operator alone. A tensor is rounded where an integer kernel writes it, or, of a float operator and of
    an input, where one reads it: without rounding of its ``activation`` the layer's readers are pinned, too, through operators
    that only move its integers.
    """
    names = {*layer.weight, *layer.activation}
    own = [p for p in plan.ops if p.op.name in names and not p.keeps_framework]
    tensors = [t for p in plan.ops if p.op.name in names for t in p.op.outputs] + [t for t in plan.graph.inputs if t in names]
    found = {p.op.name: p for p in own}
    for tensor in tensors if activation else ():
        found |= {p.op.name: p for p in _integer_readers(plan, tensor)}
    return tuple(dict.fromkeys(Pin(p.op.layer, p.op.kind) for p in plan.ops if p.op.name in found))


def all_pins(plan: Plan, layers: Sequence[Layer], weight_shares: Sequence[float]) -> tuple[Pin, ...]:
    """Return the pins of several layers, in the order of the model; readers where activations make most of a layer's loss.

    Args:
        plan: of the model.
        layers: that should round nothing.
        weight_shares: the share of each one's loss that its weights make.
    """
    found = {
        pin for layer, share in zip(layers, weight_shares, strict=True) for pin in pins_of(layer, plan, share < _WEIGHTS_ALONE)
    }
    return tuple(pin for pin in dict.fromkeys(Pin(p.op.layer, p.op.kind) for p in plan.ops) if pin in found)


def _integer_readers(plan: Plan, tensor: str) -> Iterable[PlannedOp]:
    """Yield the integer operators that read a tensor, and those that read what operators on its scale make of it."""
    for p in plan.ops:
        if not p.integer or tensor not in p.grid_inputs:
            continue
        yield p
        if plan.group_of[tensor] == plan.group_of[p.op.output] and p.op.output != tensor and not p.weight:
            yield from _integer_readers(plan, p.op.output)


def pinned(recipe: Recipe, pins: Sequence[Pin], name: str, planned: Callable[[Recipe], Plan]) -> PinnedRecipe:
    """Return the recipe with rules that hold operators in 16 bits where the planner keeps all of them so, else in float.

    Args:
        recipe: the whole recipe.
        pins: the operators.
        name: of the new recipe.
        planned: plans the model by a recipe.

    Raises:
        ConfigError: the planner keeps the pins in no precision.
    """
    reason = "there is nothing to pin"
    for precision, update in _RULES.items():
        made = _with_rules(recipe, pins, name, update)
        try:
            plan = planned(made)
        except ConfigError as error:  # the target has no 16-bit kernels, or no kernel mixes the widths
            reason = str(error)
            continue
        if all(_kept(p, plan, precision) for p in plan.ops if Pin(p.op.layer, p.op.kind) in pins):
            return PinnedRecipe(made, plan, tuple(pins), precision)
    raise ConfigError(f"the layers cannot be left at higher precision: {reason}")


def _with_rules(recipe: Recipe, pins: Sequence[Pin], name: str, update: dict[str, object]) -> Recipe:
    rules = []
    for pin in pins:
        before = recipe.rule_for(pin.layer, pin.kind) or Rule()
        base = Rule() if update["mode"] == "float" else before
        rules.append(base.model_copy(update={"scope": f"^{re.escape(pin.layer)}$", "op": pin.kind, "role": None, **update}))
    described = f"{recipe.name}, but for {len(pins)} operators at higher precision"
    return Recipe(name=name, description=described, rules=(*recipe.rules, *rules), replace=recipe.replace)


def _kept(p: PlannedOp, plan: Plan, precision: Precision) -> bool:
    """Whether the plan holds an operator as it was pinned."""
    if precision == "float":
        return not p.integer and not p.stored
    return p.integer and KINDS[p.op.kind].int16 and plan.groups[plan.group_of[p.op.output]].spec.bits == 16
