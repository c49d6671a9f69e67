"""From what each node tells where its output was clipped: its readers decide, by what they keep of it."""

from __future__ import annotations

from qat.adapters.torch.autograd.clip_mask import ClipMask
from qat.graph.training_acts import touched
from qat.planning.plan import Plan, PlannedOp

from .base import Node
from .data_movement import View
from .lookup import Function
from .table import node_type


def clip_masks(plan: Plan) -> dict[str, ClipMask]:
    """Return the clip masks of tensors; one that is not named has one of bytes."""
    learned = {t for t, group in plan.group_of.items() if plan.groups[group].learned}
    found = dict.fromkeys(plan.graph.outputs, ClipMask.OUTPUT)
    for p in reversed(plan.ops):
        for t in p.op.inputs:
            kept = _kept_by(p, not learned.isdisjoint(p.op.outputs), found)
            if kept is not None and found.get(t) is not ClipMask.OUTPUT:
                found[t] = kept
    changed = touched(plan.acts, [p.op for p in plan.ops])
    readers: dict[str, list[PlannedOp]] = {}
    for p in plan.ops:
        for t in p.op.inputs:
            readers.setdefault(t, []).append(p)
    for p in plan.ops:
        node = _node_of_bytes(p)
        for t in p.op.outputs if node is not None and node.has_clip_mask else ():
            told = found.get(t) is ClipMask.OUTPUT or t in plan.graph.outputs or t in changed or t in learned
            if not told and all(map(is_table, readers.get(t, ()))):
                found[t] = ClipMask.READERS
    return found


def is_table(p: PlannedOp) -> bool:
    """Return whether an operator is a lookup table, which can tell where its input was clipped."""
    return _node_of_bytes(p) is Function


def _kept_by(p: PlannedOp, learned: bool, found: dict[str, ClipMask]) -> ClipMask | None:
    """Return what an operator keeps of its inputs for its backward pass: floats, bytes or nothing.

    PyTorch's own operators may keep their inputs, and so do nodes that learn. A view keeps what its readers do.
    """
    node = node_type(p, learned)
    if p.integer and (p.op.kind == "move" or (node is not None and issubclass(node, View))):
        return found.get(p.op.output)
    if not p.integer or node is None or p.keeps_framework or node.keeps_inputs or (learned and node.keeps_bytes):
        return ClipMask.OUTPUT
    return ClipMask.KEPT if node.keeps_bytes else None


def _node_of_bytes(p: PlannedOp) -> type[Node] | None:
    """Return the node of an operator on 8-bit integers; None for one that is float, of 16 bits, or PyTorch's own."""
    return node_type(p, False) if p.integer and not p.keeps_framework and p.kernels != "int16" else None
