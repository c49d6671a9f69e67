"""Planning: Graph x Recipe x Target -> Plan. Which operators run on the integer grid, which scales they share, and why not.

The planner knows nothing of frameworks, an adapter knows nothing of recipes or targets: the plan is all they exchange.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from qat.arithmetic.int16 import LIMITS as WIDE_LIMITS
from qat.errors import ConfigError
from qat.graph.graph import Graph, Op
from qat.graph.kinds import KINDS

from .modes import STORED
from .plan import Group, Plan, PlannedOp
from .recipe import QuantSpec, Recipe, Rule
from .recipe_support import check_activation, check_modes, weight_qmax
from .targets import Fixed, Row, Target

log = logging.getLogger("qat")


def plan(graph: Graph, recipe: Recipe, target: Target) -> Plan:
    """Plan a graph.

    Raises:
        ConfigError: the recipe asks for bits that the target cannot run, or nothing at all would be quantized.
    """
    planned: list[PlannedOp] = []
    rules: dict[str, Rule] = {}
    # Graph inputs count as being on the grid: they are quantized where the model is entered.
    on_grid = {name for name in graph.inputs if graph.tensors[name].dtype == "float32"}
    integer_tensors: set[str] = set()
    prescribed: set[str] = set()
    check_modes(recipe, target)
    for asked in recipe.rules:
        if asked.scope != ".*" and not any(asked.matches(op.scope, op.kind) for op in graph.ops):
            log.warning(
                "recipe '%s': no layer matches the rule scope='%s' op='%s'; qat plan shows the scopes",
                recipe.name,
                asked.scope,
                asked.op,
            )
    for op, activation in _fuse(graph, recipe, target):
        if (stored := _stored(op, activation, graph, recipe, target)) is not None:
            planned.append(stored)
            continue
        reason, rule, row = _why_float(op, graph, recipe, target, on_grid, prescribed)
        if reason or rule is None or row is None:
            planned.append(PlannedOp(op, False, reason, activation))
            continue
        rules[op.name] = rule
        if op.inputs:  # a constant alone is no reason to enter the grid
            on_grid.update(op.outputs)
        if isinstance(row.output, Fixed) or (row.output == "as_input" and any(name in prescribed for name in op.inputs)):
            prescribed.update(op.outputs)
        integer_tensors.update(op.outputs)
        if not KINDS[op.kind].linear:
            kernels = "wide" if rule.activation.bits == 16 else ""
            planned.append(PlannedOp(op, True, "", activation, mode="static", kernels=kernels))
            continue
        kernels = _packed(op, rule, graph, target)
        packed, kernels = (False, "wide") if rule.activation.bits == 16 else (bool(kernels), kernels)
        learned = rule.weight.learned and KINDS[op.kind].learnable_weight
        weight = rule.weight if learned == rule.weight.learned else rule.weight.model_copy(update={"learned": False})
        planned.append(PlannedOp(op, True, "", activation, weight, weight_qmax(weight, target), "static", packed, kernels))
    wanted = {name for p in planned if p.integer for name in p.grid_inputs}
    planned = [p if p.op.inputs or p.op.output in wanted else PlannedOp(p.op, False) for p in planned]
    integer_tensors -= {p.op.output for p in planned if not p.integer}
    if not any(p.integer or p.stored for p in planned):
        reasons = "; ".join(sorted({p.reason for p in planned})) or "the model has no operators"
        raise ConfigError(f"recipe '{recipe.name}' quantizes nothing of this model for target '{target.name}': {reasons}")
    read_as_integer = {name for p in planned if p.integer for name in p.grid_inputs}
    read_as_float = {name for p in planned if not p.integer for name in p.op.inputs} | set(graph.outputs)
    entered, left = read_as_integer - integer_tensors, read_as_float & integer_tensors
    groups, group_of = _share_scales(planned, rules, target, entered | left)
    order = list(graph.tensors)
    return Plan(
        graph=graph,
        recipe=recipe,
        target=target,
        ops=tuple(planned),
        groups=groups,
        group_of=group_of,
        quantize=tuple(t for t in order if t in entered),
        dequantize=tuple(t for t in order if t in left),
    )


def _fuse(graph: Graph, recipe: Recipe, target: Target) -> list[tuple[Op, str | None]]:
    """Merge each activation into the operator before it where the target's kernel absorbs it and nobody else reads it."""
    consumers = graph.consumers()
    merged: dict[str, str | None] = {}
    out: list[tuple[Op, str | None]] = []
    for op in graph.ops:
        if op.name in merged:
            continue
        row = target.row(op.kind)
        readers = consumers.get(op.output, [])
        rule = recipe.rule_for(op.scope, op.kind)
        quantized = rule is not None and (rule.mode == "static" or op.kind in target.modes.stored.get(rule.mode, ()))
        if row and quantized and len(readers) == 1 and readers[0].kind in row.fuses:
            follower = readers[0]
            if op.output not in graph.outputs:
                merged[follower.name] = op.name
                out.append((_with_output(op, follower.output), follower.kind))
                continue
        out.append((op, None))
    return out


def _with_output(op: Op, output: str) -> Op:
    return Op(op.name, op.kind, op.inputs, (output,), op.params, op.attrs, op.scope)


def _why_float(
    op: Op, graph: Graph, recipe: Recipe, target: Target, on_grid: set[str], prescribed: set[str]
) -> tuple[str, Rule | None, Row | None]:
    """Return why an operator stays float (empty where it does not), the rule and the row that apply to it."""
    kind, row, rule = KINDS[op.kind], target.row(op.kind), recipe.rule_for(op.scope, op.kind)
    if row is None:
        known = op.attrs.get("reason") or kind.reason
        return str(known or f"target '{target.name}' has no integer kernel for {op.label}"), None, None
    if rule is None:
        return f"no rule of recipe '{recipe.name}' matches it", None, None
    if rule.mode == "float":
        return f"rule scope='{rule.scope}' op='{rule.op}' of recipe '{recipe.name}' leaves it float", None, None
    tensors = op.outputs if kind.indices else (*op.inputs, *op.outputs)
    if any(graph.tensors[t].dtype != "float32" for t in tensors):
        found = sorted({graph.tensors[t].dtype for t in tensors} - {"float32"})
        return f"its tensors are {', '.join(found)}: the integer grid is for float32 models", None, None
    if missing := row.missing(op, len(graph.tensors[(*op.inputs, op.output)[0]].shape)):
        return f"target '{target.name}' has no {missing}", None, None
    if row.output == "as_input" and len(op.inputs) > 1 and any(name in prescribed for name in op.inputs):
        return "the kernel before it prescribes a scale, which its other inputs cannot share", None, None
    if row.readers and not any(reader.kind in row.readers for reader in graph.consumers().get(op.output, ())):
        return f"no {' or '.join(row.readers)} reads it: 256 integers are few for a result", None, None
    if not row.starts and not any(name in on_grid for name in op.inputs):
        return "its inputs are float, and it is not worth a region of its own", None, None
    if rule.activation.bits == 16 and op.kind not in target.modes.wide:
        return f"target '{target.name}' has no 16-bit kernel for {op.label}", None, None
    check_activation(rule.activation, recipe, target)
    return "", rule, row


def _stored(op: Op, activation: str | None, graph: Graph, recipe: Recipe, target: Target) -> PlannedOp | None:
    """Plan an operator whose rule concerns its weight alone; None for any other."""
    rule = recipe.rule_for(op.scope, op.kind)
    if rule is None or rule.mode not in STORED:
        return None
    kind = KINDS[op.kind]
    if not op.params or not (kind.linear or kind.output_grid):
        return PlannedOp(op, False, "", activation)
    if op.kind not in target.modes.stored.get(rule.mode, ()):
        return PlannedOp(op, False, f"target '{target.name}' has no {rule.mode} kernel for {op.kind}", activation)
    if graph.tensors[op.inputs[0]].dtype != "float32":
        return PlannedOp(op, False, f"its input is {graph.tensors[op.inputs[0]].dtype}", activation)
    if rule.mode == "float16":
        return PlannedOp(op, False, "", activation, mode="float16", kernels="float")
    # A float kernel on dequantized weights has no use for the integer kernels' narrower limit.
    qmax = weight_qmax(rule.weight, target) if rule.mode == "dynamic" else 2 ** (rule.weight.bits - 1) - 1
    packed = _packed(op, rule, graph, target)
    kernels = packed or target.modes.stored[rule.mode][op.kind]
    return PlannedOp(op, False, "", activation, rule.weight, qmax, rule.mode, bool(packed), kernels)


def _packed(op: Op, rule: Rule, graph: Graph, target: Target) -> str:
    """Return the arithmetic of the kernel that reads the weight in 4 bits; empty where it is held in int8."""
    if rule.weight.bits > 4:
        return ""
    channels = graph.tensors[op.output].shape[1 if graph.layout == "NCHW" else -1]
    per_channel = rule.weight.granularity == "channel" and channels != 1
    found = (k for k in target.modes.packed.get(rule.mode, {}).get(op.kind, ()) if k.takes(op, per_channel))
    return next((kernel.arithmetic for kernel in found), "")


def _share_scales(
    planned: list[PlannedOp], rules: Mapping[str, Rule], target: Target, borders: set[str]
) -> tuple[dict[str, Group], dict[str, str]]:
    """Group the tensors on the grid: an ``as_input`` operator's inputs and outputs share one scale.

    Activations of fewer than 8 bits are those between integer kernels: at the ``borders`` of a region there are 8.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            name = parent[name]
        return name

    specs: dict[str, QuantSpec] = {}
    fixed: dict[str, Fixed] = {}
    centred: set[str] = set()
    for p in planned:
        if not p.integer:
            continue
        row = target.row(p.op.kind)
        assert row is not None
        for name in (*p.grid_inputs, *p.op.outputs):
            find(name)
            specs.setdefault(name, rules[p.op.name].activation)
        centred.update(p.op.inputs[place] for place in row.symmetric)
        if isinstance(row.output, Fixed):
            fixed[p.op.output] = row.output
        if row.output == "as_input":
            for name in (*p.op.inputs[1:], *p.op.outputs):
                # The earliest tensor names the group, so that names do not depend on the order of the union.
                parent[find(name)] = find(p.op.inputs[0])
    learnable = {t for p in planned if KINDS[p.op.kind].learnable_output for t in p.op.outputs}
    members: dict[str, list[str]] = {}
    for name in parent:
        members.setdefault(find(name), []).append(name)
    groups = {}
    for root, tensors in members.items():
        spec = specs[root]
        prescribed = next((fixed[t] for t in tensors if t in fixed), None)
        if spec.bits < 8 and (prescribed is not None or borders.intersection(tensors)):
            spec = spec.model_copy(update={"bits": 8, "learned": False})
        wide = spec.bits == 16
        qmin, qmax = WIDE_LIMITS if wide else target.limits(spec.bits)
        asked = spec.symmetric or target.symmetric_activations or wide or bool(centred.intersection(tensors))
        symmetric = asked and prescribed is None
        learned = spec.learned and not symmetric and learnable.issuperset(tensors)
        groups[root] = Group(root, tuple(tensors), spec, qmin, qmax, symmetric, prescribed, learned)
    group_of = {t: g.name for g in groups.values() for t in g.tensors}
    for p in planned:
        bits = sorted({groups[group_of[t]].spec.bits for t in (*p.grid_inputs, *p.op.outputs)}) if p.integer else []
        if len(bits) > 1 and 16 in bits:  # narrower ones mix: a kernel rescales in any case
            raise ConfigError(
                f"{p.op.scope or p.op.name}: its activations would have {' and '.join(map(str, bits))} bits, which no "
                "kernel mixes: let the rules of neighbouring layers agree in activation.bits"
            )
    return groups, group_of
