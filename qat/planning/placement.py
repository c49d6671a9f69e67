"""Placement: each operator runs on the integer grid, in a mode of its weight alone, or in float with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qat.graph.graph import Graph, Op
from qat.graph.kinds import KINDS
from qat.graph.residual_stream import residual_stream

from .modes import STORED
from .plan import PlannedOp
from .recipe import Recipe, Role, Rule
from .recipe_support import check_activation, weight_qmax
from .targets import Fixed, Row, Target
from .tied_weights import tie


def roles_of(graph: Graph) -> dict[str, Role]:
    """Return the roles that rules may ask for, by the names of the operators that have one."""
    return dict.fromkeys(residual_stream(graph), "residual")


def float_by_role(graph: Graph, recipe: Recipe) -> set[str]:
    """Return the names of the operators that a rule for their role leaves float."""
    roles = roles_of(graph)
    rules = {op.name: recipe.rule_for(op.layer, op.kind, roles[op.name]) for op in graph.ops if op.name in roles}
    return {name for name, rule in rules.items() if rule is not None and rule.role and rule.mode == "float"}


def place(
    graph: Graph, recipe: Recipe, target: Target, float_by_choice: Mapping[str, str] | None = None
) -> tuple[list[PlannedOp], dict[str, Rule]]:
    """Return the planned operators in order, fused activations merged, and the rule of each integer operator by its name.

    Args:
        graph: the model.
        recipe: its rules.
        target: its kernels.
        float_by_choice: operators that stay float whatever the rules say, and why, by name.

    Raises:
        ConfigError: the recipe asks for bits that the target cannot run.
    """
    roles = roles_of(graph)
    placement = _Placement(graph, recipe, target, roles, float_by_choice or {})
    planned = [placement.planned(op, activation) for op, activation in _fuse(graph, recipe, target, roles)]
    planned = tie(planned, lambda op: recipe.rule_for(op.layer, op.kind, roles.get(op.name)), graph, target)
    wanted = {name for p in planned if p.integer for name in p.grid_inputs}
    # A constant that no integer kernel reads stays the parameter that it is.
    return [p if p.op.inputs or p.op.output in wanted else PlannedOp(p.op, False) for p in planned], placement.rules


def _fuse(graph: Graph, recipe: Recipe, target: Target, roles: Mapping[str, Role]) -> list[tuple[Op, str | None]]:
    """Merge each activation into the operator before it where the target's kernel absorbs it and nobody else reads it."""
    consumers = graph.consumers()
    merged: dict[str, str | None] = {}
    out: list[tuple[Op, str | None]] = []
    for op in graph.ops:
        if op.name in merged:
            continue
        row = target.row(op.kind)
        readers = consumers.get(op.output, [])
        rule = recipe.rule_for(op.layer, op.kind, roles.get(op.name))
        quantized = rule is not None and (rule.mode == "static" or op.kind in target.modes.stored.get(rule.mode, ()))
        if row and quantized and len(readers) == 1 and readers[0].kind in row.fuses:
            follower = readers[0]
            if op.output not in graph.outputs:
                merged[follower.name] = op.name
                out.append((replace(op, outputs=follower.outputs), follower.kind))
                continue
        out.append((op, None))
    return out


def divisors(graph: Graph) -> set[str]:
    """Return the operators that compute a divisor, through numbers that are added or multiplied, and through moves.

    A divisor is of any size near zero, and the integer grid rounds small ones to zero: linear attention (EfficientViT) divides
    by a sum of products, and gave NaN.
    """
    writers = {output: op for op in graph.ops for output in op.outputs}
    waiting = [op.inputs[1] for op in graph.ops if op.attrs.get("computes") == "div" and len(op.inputs) == 2]
    found: set[str] = set()
    while waiting:
        writer = writers.get(waiting.pop())
        if writer is None or writer.name in found or writer.kind == "constant":
            continue
        found.add(writer.name)
        constant = [name for name in writer.inputs if name in writers and writers[name].kind == "constant"]
        if moves(writer) or (writer.kind in ("add", "mul") and constant):
            waiting += writer.inputs
    return found


def moves(op: Op) -> bool:
    """Return whether an operator only puts the values of its inputs elsewhere."""
    return op.kind in ("reshape", "transpose", "concat") or (op.kind == "move" and KINDS[op.kind].framework)


@dataclass
class _Placement:
    """A walk over the operators in order.

    Attributes:
        roles: the role of each operator that has one.
        float_by_choice: why operators stay float whatever the rules say.
        rules: the rule of each integer operator so far.
        on_grid: the tensors on the grid so far. Inputs of the graph count: they are quantized where the model is entered.
        prescribed: those whose scale a kernel prescribes.
        divisors: the operators that compute a divisor.
        wide: those of 16 bits.
        consumers: the operators that read each tensor.
    """

    graph: Graph
    recipe: Recipe
    target: Target
    roles: Mapping[str, Role]
    float_by_choice: Mapping[str, str]
    rules: dict[str, Rule] = field(default_factory=dict)
    on_grid: set[str] = field(default_factory=set)
    prescribed: set[str] = field(default_factory=set)
    divisors: set[str] = field(default_factory=set)
    wide: set[str] = field(default_factory=set)
    consumers: dict[str, list[Op]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consumers = self.graph.consumers()
        self.divisors = divisors(self.graph)
        self.on_grid.update(name for name in self.graph.inputs if self.graph.tensors[name].dtype == "float32")

    def planned(self, op: Op, activation: str | None) -> PlannedOp:
        """Return the next operator, planned."""
        rule, row = self.recipe.rule_for(op.layer, op.kind, self.roles.get(op.name)), self.target.row(op.kind)
        if rule is not None and rule.mode in STORED:
            return _stored(op, activation, rule, self.graph, self.target)
        reason = self._reason(op, rule, row)
        if reason or rule is None or row is None:
            return PlannedOp(op, False, reason, activation)
        check_activation(rule.activation, self.recipe, self.target)
        self._enter(op, rule, row)
        return _integer(op, activation, rule, self.graph, self.target)

    def _enter(self, op: Op, rule: Rule, row: Row) -> None:
        """Take note of an operator that runs on the grid."""
        self.rules[op.name] = rule
        if rule.activation.bits == 16:
            self.wide.update(op.outputs)
        if op.inputs:  # a constant alone is no reason to enter the grid
            self.on_grid.update(op.outputs)
        if (
            isinstance(row.output, Fixed)
            or row.output == "probabilities"
            or (row.output == "as_input" and self.prescribed.intersection(op.inputs))
        ):
            self.prescribed.update(op.outputs)

    def _reason(self, op: Op, rule: Rule | None, row: Row | None) -> str:
        """Return why an operator stays float; empty where an integer kernel runs it."""
        if row is None:
            known = op.attrs.get("reason") or KINDS[op.kind].reason
            return str(known or f"target '{self.target.name}' has no integer kernel for {op.label}")
        if op.stays_float:
            return op.stays_float
        if rule is None:
            return f"no rule of recipe '{self.recipe.name}' matches it"
        if rule.mode == "float":
            return f"rule {rule} of recipe '{self.recipe.name}' leaves it float"
        if op.name in self.divisors and not moves(op):
            return "a division reads it as its divisor: the integer grid rounds small ones to zero"
        return (
            self._beyond_kernel(op, row)
            or self.float_by_choice.get(op.name, "")
            or self._isolated(op, row)
            or self._beyond_width(op, rule)
        )

    def _beyond_kernel(self, op: Op, row: Row) -> str:
        """Return how an operator exceeds the kernel of its row."""
        tensors = [self.graph.tensors[t] for t in (op.outputs if KINDS[op.kind].indices else (*op.inputs, *op.outputs))]
        if others := sorted({tensor.dtype for tensor in tensors} - {"float32"}):
            return f"its tensors are {', '.join(others)}: the integer grid is for float32 models"
        if row.sized and any(None in tensor.shape[1:] for tensor in tensors):
            return f"target '{self.target.name}' has no integer kernel for {op.label} on images of a free size"
        missing = row.missing(op, len(tensors[0].shape))
        return f"target '{self.target.name}' has no {missing}" if missing else ""

    def _isolated(self, op: Op, row: Row) -> str:
        """Return why the operators around an operator keep it float."""
        shared = op.inputs[:1] if row.second is not None else op.inputs
        if row.output == "as_input" and len(shared) > 1 and self.prescribed.intersection(shared):
            return "the kernel before it prescribes a scale, which its other inputs cannot share"
        if row.readers and not any(reader.kind in row.readers for reader in self._readers(op)):
            return f"no {' or '.join(row.readers)} reads it: 256 integers are few for a result"
        if not row.leaves and len(set(op.inputs)) > 1 and not self._readers(op):
            return "its values leave the model, which takes no scale that its inputs would share"
        if not row.starts and not self.on_grid.intersection(op.inputs):
            return "its inputs are float, and it is not worth a region of its own"
        return ""

    def _readers(self, op: Op) -> list[Op]:
        """Return the operators that read an operator's output to do more than move its values, through those that move them."""
        seen, waiting = {op.name: op}, [op]
        while waiting:
            for reader in (reader for output in waiting.pop().outputs for reader in self.consumers.get(output, ())):
                if reader.name not in seen:  # A value that is cut and joined again and again has more paths than can be walked.
                    seen[reader.name] = reader
                    if moves(reader):
                        waiting.append(reader)
        return [reader for reader in seen.values() if reader is not op and not moves(reader)]

    def _beyond_width(self, op: Op, rule: Rule) -> str:
        # No kernel reads 16 bits and writes 8. A norm that has no 16-bit one is worth its float inputs; others are refused.
        reads_wide = KINDS[op.kind].normalizes and not self.wide.isdisjoint(op.inputs)
        if (rule.activation.bits == 16 or reads_wide) and op.kind not in self.target.modes.int16:
            return f"target '{self.target.name}' has no 16-bit kernel for {op.label}"
        return ""


def _integer(op: Op, activation: str | None, rule: Rule, graph: Graph, target: Target) -> PlannedOp:
    """Plan an operator for an integer kernel."""
    kind, int16 = KINDS[op.kind], rule.activation.bits == 16
    if not kind.linear:
        return PlannedOp(op, True, "", activation, mode="static", kernels="int16" if int16 else "")
    packed = "" if int16 else _packed(op, rule, graph, target)
    learned = rule.weight.learned and kind.learnable_weight
    weight = rule.weight if learned == rule.weight.learned else rule.weight.model_copy(update={"learned": False})
    kernels = "int16" if int16 else packed
    return PlannedOp(op, True, "", activation, weight, weight_qmax(weight, target), "static", bool(packed), kernels)


def _stored(op: Op, activation: str | None, rule: Rule, graph: Graph, target: Target) -> PlannedOp:
    """Plan an operator whose rule concerns its weight alone."""
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
