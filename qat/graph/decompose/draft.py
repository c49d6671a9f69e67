"""A graph under rewriting: the new operators in order, and the tensors between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..graph import Graph, Op, TensorSpec


class Draft:
    """Collects the operators of the new graph; the tensors of the old one keep their names.

    Attributes:
        graph: the old graph.
        tensors: those of both graphs, by name.
        ops: the new operators.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.ops: list[Op] = []
        self._names = {*graph.tensors, *(op.name for op in graph.ops)}

    def unused(self, name: str) -> str:
        """Return a name that no tensor and no operator has."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def add_tensor(self, name: str, shape: Sequence[int | None], example: Sequence[int] = ()) -> str:
        """Add a tensor of float32, and return its name."""
        made = self.unused(name)
        self.tensors[made] = TensorSpec(made, tuple(shape), example=tuple(example))
        return made

    def reshape(self, source: str, output: str, scope: str) -> str:
        """Add a reshape, and return its name; -1 stands for the batch, and for one other size that is free."""
        first, *sizes = (-1 if size is None else size for size in self.tensors[output].shape)
        first = first if sizes.count(-1) == 1 else -1  # the batch, where no other axis is
        name = self.unused(f"{output}_reshape")
        self.ops.append(Op(name, "reshape", (source,), (output,), {}, {"shape": (first, *sizes)}, scope))
        return name

    def finished(self) -> Graph:
        """Return the new graph."""
        # In the order of the operators, which the planner's borders follow.
        order = dict.fromkeys([*self.graph.inputs, *(name for op in self.ops for name in op.outputs)])
        return self.graph.replace(ops=tuple(self.ops), tensors={name: self.tensors[name] for name in order})


def product(sizes: Sequence[int | None]) -> int | None:
    """Return the product of sizes; None where one is free."""
    return None if None in sizes else math.prod(size or 0 for size in sizes)
