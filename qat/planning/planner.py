"""Planning: Graph x Recipe x Target -> Plan. Which operators run on the integer grid, which scales they share, and why not.

The planner knows nothing of frameworks, an adapter knows nothing of recipes or targets: the plan is all they exchange.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from dataclasses import replace

from qat.arithmetic.saturation import Bounds, saturation, union
from qat.errors import ConfigError
from qat.graph.graph import Graph
from qat.graph.kinds import KINDS

from .placement import place, roles_of
from .plan import Group, Plan, PlannedOp
from .prefer_speed import quicker_in_float
from .recipe import Recipe
from .recipe_support import check_modes
from .shared_scales import share_scales
from .targets import Target

log = logging.getLogger("qat")


def plan(graph: Graph, recipe: Recipe, target: Target) -> Plan:
    """Plan a graph.

    Raises:
        ConfigError: the recipe asks for bits that the target cannot run, or nothing at all would be quantized, with
            ``prefer: speed`` because all is quicker in float.
    """
    check_modes(recipe, target)
    _warn_of_idle_rules(graph, recipe)
    planned, rules = place(graph, recipe, target)
    if recipe.prefer == "speed":
        could_be = planned
        planned, rules = place(graph, recipe, target, quicker_in_float(planned, graph, target))
        if _quantizes(could_be) and not _quantizes(planned):
            raise ConfigError(
                f"recipe '{recipe.name}', prefer: speed: the whole model is quicker in float on target '{target.name}': ship the "
                "float model, or leave 'prefer' out for a smaller file"
            )
    if not _quantizes(planned):
        reasons = "; ".join(sorted({p.reason for p in planned if p.reason})) or "the model has no operators"
        raise ConfigError(f"recipe '{recipe.name}' quantizes nothing of this model for target '{target.name}': {reasons}")
    quantize, dequantize = _borders(graph, planned)
    groups = share_scales(planned, rules, target, {*quantize, *dequantize})
    groups = {name: replace(group, bounds=_bounds(group, planned, dequantize)) for name, group in groups.items()}
    group_of = {tensor: group.name for group in groups.values() for tensor in group.tensors}
    return Plan(graph, recipe, target, tuple(planned), groups, group_of, quantize, dequantize)


def _quantizes(planned: Sequence[PlannedOp]) -> bool:
    return any(p.integer or p.stored for p in planned)


def _warn_of_idle_rules(graph: Graph, recipe: Recipe) -> None:
    roles = roles_of(graph)
    for rule in recipe.rules:
        if any(rule.matches(op.layer, op.kind, roles.get(op.name)) for op in graph.ops):
            continue
        if rule.role and not roles:
            log.warning("recipe '%s': the model has no residual stream, so the rule %s does nothing", recipe.name, rule)
        elif rule.role or rule.scope != ".*":
            log.warning("recipe '%s': no layer matches the rule %s; qat plan shows the scopes", recipe.name, rule)


def _borders(graph: Graph, planned: Sequence[PlannedOp]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the float tensors that integer kernels read, and the tensors on the grid that are read in float."""
    integer = {t for p in planned if p.integer for t in p.op.outputs}
    read_as_integer = {t for p in planned if p.integer for t in p.grid_inputs}
    read_as_float = {t for p in planned if not p.integer for t in p.op.inputs} | set(graph.outputs)
    entered, left = read_as_integer - integer, read_as_float & integer
    return tuple(t for t in graph.tensors if t in entered), tuple(t for t in graph.tensors if t in left)


def _bounds(group: Group, planned: Sequence[PlannedOp], dequantize: Container[str]) -> Bounds:
    """Return the numbers beyond which nothing that reads a group's tensors tells their values apart."""
    readers = [p.op for p in planned if not set(p.op.inputs).isdisjoint(group.tensors)]
    told = any(t in dequantize for t in group.tensors) or not all(KINDS[op.kind].function for op in readers)
    return (
        (None, None)
        if told or not readers or group.fixed or group.probabilities
        else union([saturation(op.kind, op.attrs) for op in readers])
    )
