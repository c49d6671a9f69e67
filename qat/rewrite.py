"""Functions that a target has no kernel for, written as operators that it has, before the graph is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qat.graph import Graph, Op, TensorSpec
from qat.targets import Target


class _Writer:
    """Collects the operators that stand for one; what they are called starts with its name."""

    def __init__(self, op: Op, tensors: dict[str, TensorSpec], params: dict[str, np.ndarray]) -> None:
        self.op, self.tensors, self.params = op, tensors, params
        self.ops: list[Op] = []

    def add(self, kind: str, *inputs: str, last: bool = False) -> str:
        """Add an operator of the output's shape and return its output: the rewritten operator's own where it is the ``last``."""
        name = self.op.name if last else f"{self.op.name}_{kind}_{len(self.ops)}"
        output = self.op.output if last else name
        self.tensors[output] = TensorSpec(output, self.tensors[self.op.output].shape)
        self.ops.append(Op(name, kind, inputs, (output,), {}, {}, self.op.scope))
        return output

    def constant(self, value: float) -> str:
        """Add a constant of one element, which broadcasts, and return its output."""
        name = f"{self.op.name}_constant_{len(self.ops)}"
        self.params[name] = np.full([1] * len(self.tensors[self.op.output].shape), value, np.float32)
        self.tensors[name] = TensorSpec(name, self.params[name].shape)
        self.ops.append(Op(name, "constant", (), (name,), {"value": name}, {}, self.op.scope))
        return name


def _silu(w: _Writer, x: str) -> None:
    w.add("mul", x, w.add("sigmoid", x), last=True)


def _hard_sigmoid(w: _Writer, x: str, last: bool = True) -> str:
    raised = w.add("relu6", w.add("add", x, w.constant(3.0)))
    return w.add("mul", raised, w.constant(1.0 / 6.0), last=last)


def _hard_swish(w: _Writer, x: str) -> None:
    w.add("mul", x, _hard_sigmoid(w, x, last=False), last=True)


#: By kind: writes the operators that compute the same.
REWRITES: dict[str, Callable[[_Writer, str], Any]] = {
    "silu": _silu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
}


def for_target(graph: Graph, params: Mapping[str, np.ndarray], target: Target) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return the graph and the parameters with the functions rewritten whose kind has no row in the target."""
    tensors, values = dict(graph.tensors), dict(params)
    ops: list[Op] = []
    for op in graph.ops:
        if op.kind not in REWRITES or target.row(op.kind) is not None:
            ops.append(op)
            continue
        writer = _Writer(op, tensors, values)
        REWRITES[op.kind](writer, op.inputs[0])
        ops += writer.ops
    return graph.replace(ops=tuple(ops), tensors=tensors), values
