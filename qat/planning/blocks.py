"""The blocks of a planned model: the parts that are held against the float model, one after the other.

A place between two operators where a single tensor is alive separates what comes before it from what comes after. Between two
such places lies a residual block, a transformer's attention or feed-forward part with its skip, a squeeze and its product, or
one layer of a chain. Layers of a chain are taken two at a time. A part with many layers (the levels of a U-Net, whose skips keep
tensors alive) is divided where the fewest tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Plan, PlannedOp

#: The most layers of a chain that make a block, and the most layers of any block that can be divided.
_CHAIN, _MOST = 2, 6


@dataclass(frozen=True)
class Block:
    """Operators that follow each other.

    Attributes:
        ops: in order.
        inputs: the tensors from before that they read, those of the model's inputs among them.
        outputs: the tensors of theirs that later operators read, or the user.
    """

    ops: tuple[PlannedOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def blocks_of(plan: Plan) -> list[Block]:
    """Return the blocks of a plan; together they are all of its operators, in order."""
    last = {t: i for i, p in enumerate(plan.ops) for t in p.op.inputs}
    alive = _alive(plan, last)
    last |= dict.fromkeys(plan.graph.outputs, len(plan.ops))
    weighted = [p.weight is not None and not p.tied for p in plan.ops]
    ends = [i + 1 for i, count in enumerate(alive) if count <= 1 or i == len(alive) - 1]
    parts = [part for start, end in zip([0, *ends], ends, strict=False) for part in _divided(start, end, alive, weighted)]
    blocks = []
    for start, end in _joined(parts, weighted):
        ops = plan.ops[start:end]
        written = [t for p in ops for t in p.op.outputs]
        read = dict.fromkeys(t for p in ops for t in p.op.inputs if t not in written)
        blocks.append(Block(tuple(ops), tuple(read), tuple(t for t in written if last.get(t, -1) >= end)))
    return blocks


def _alive(plan: Plan, last: dict[str, int]) -> list[int]:
    """Return how many tensors are read on behind each operator, those not counted that are the model's inputs, or constants."""
    counts, alive = [], 0
    ending: dict[int, int] = {}
    for i, p in enumerate(plan.ops):
        for t in p.op.outputs if p.op.inputs else ():
            if last.get(t, -1) > i:
                alive += 1
                ending[last[t]] = ending.get(last[t], 0) + 1
        alive -= ending.pop(i, 0)
        counts.append(alive)
    return counts


def _divided(start: int, end: int, alive: Sequence[int], weighted: Sequence[bool]) -> list[tuple[int, int]]:
    """Divide a part that has too many layers at the place with the fewest tensors; of several the middle one."""
    if sum(weighted[start:end]) <= _MOST:
        return [(start, end)]
    middle = (start + end) / 2
    place = min(range(start + 1, end), key=lambda i: (not _between(start, i, end, weighted), alive[i - 1], abs(i - middle)))
    return [*_divided(start, place, alive, weighted), *_divided(place, end, alive, weighted)]


def _between(start: int, place: int, end: int, weighted: Sequence[bool]) -> bool:
    """Whether a third of the layers, or more, lies on each side of a place."""
    before, behind = sum(weighted[start:place]), sum(weighted[place:end])
    return 3 * min(before, behind) >= before + behind - 1


def _joined(parts: Sequence[tuple[int, int]], weighted: Sequence[bool]) -> list[tuple[int, int]]:
    """Join parts without a layer to the part before, and single layers to each other."""
    joined: list[tuple[int, int]] = []
    for start, end in parts:
        here = sum(weighted[start:end])
        before = sum(weighted[joined[-1][0] : joined[-1][1]]) if joined else 0
        if joined and (here == 0 or before == 0 or (here == 1 and before < _CHAIN)):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
