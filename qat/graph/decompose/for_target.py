"""Rewriting for a target: an operator without an integer kernel becomes several that have one."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from ..graph import Graph, Op


@dataclass(frozen=True)
class Step:
    """One operator that stands for a part of another. ``reads`` holds ``x`` for the input, or an earlier step's kind."""

    kind: str
    reads: tuple[str, ...]


#: The steps that replace an operator where the target has a row for each step and none for the operator itself.
REWRITES: dict[str, tuple[Step, ...]] = {
    "silu": (Step("sigmoid", ("x",)), Step("mul", ("x", "sigmoid"))),
}


def for_target(graph: Graph, kernels: Container[str], of_one: Callable[[Op], str]) -> Graph:
    """Return the graph in operators that a target has ``kernels`` for, by kind, as far as :data:`REWRITES` reaches.

    ``of_one`` returns the function that the kernel of an operator computes where its two inputs are one tensor; empty for none.
    """
    ops: list[Op] = []
    tensors = dict(graph.tensors)
    for op in graph.ops:
        if len(op.inputs) == 2 and len(set(op.inputs)) == 1 and (function := of_one(op)):
            ops.append(replace(op, kind=function, inputs=op.inputs[:1]))
            continue
        steps = REWRITES.get(op.kind, ())
        if not steps or op.kind in kernels or any(step.kind not in kernels for step in steps):
            ops.append(op)
            continue
        names = {"x": op.inputs[0]}
        for step in steps:
            last = step is steps[-1]
            name = op.name if last else f"{op.name}_{step.kind}"
            output = op.output if last else f"{op.output}_{step.kind}"
            tensors[output] = replace(tensors[op.output], name=output)
            ops.append(Op(name, step.kind, tuple(names[read] for read in step.reads), (output,), scope=op.scope))
            names[step.kind] = output
    # In the order of the operators, which the planner's borders follow.
    order = [*graph.inputs, *(name for op in ops for name in op.outputs)]
    return graph.replace(ops=tuple(ops), tensors={name: tensors[name] for name in dict.fromkeys(order)} | tensors)
