"""A graph while functions are recognised in it: who writes and who reads each tensor, and the numbers behind constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from ..graph import Graph, Op, TensorSpec


@dataclass(frozen=True)
class Region:
    """Operators that together compute one tensor from one other, and that nobody else reads.

    Attributes:
        base: the tensor that they read, beside constants.
        ops: in order; the last one is the root.
    """

    base: str
    ops: tuple[Op, ...]


class Sheet:
    """A graph whose operators are replaced, one root at a time. A replacement writes the root's tensor; its readers stay.

    Attributes:
        ops: the operators by name, in order.
        tensors: the tensors by name.
        params: the parameters by name.
        fixed: the parameters that are not trained.
        admits: whether the recipe has an operator run in integers of 8 bits or fewer.
    """

    def __init__(self, graph: Graph, params: Mapping[str, np.ndarray], fixed: Set[str], admits: Callable[[Op], bool]) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.params = dict(params)
        self.fixed = set(fixed)
        self.admits = admits
        self._set({op.name: op for op in graph.ops})
        self.changed = False

    def _set(self, ops: dict[str, Op]) -> None:
        self.ops = ops
        self.order = {name: place for place, name in enumerate(ops)}
        self.writers = {tensor: op for op in ops.values() for tensor in op.outputs}
        self.readers: dict[str, list[Op]] = {}
        for op in ops.values():
            for tensor in dict.fromkeys(op.inputs):
                self.readers.setdefault(tensor, []).append(op)

    def __iter__(self) -> Iterator[Op]:
        """Yield the operators in order, without those that were dropped meanwhile."""
        return (self.ops[name] for name in list(self.ops) if name in self.ops)

    # --- questions ---

    def parameter(self, tensor: str) -> str | None:
        """Return the name of the parameter behind a constant, whose shape may be another; None for a tensor that is computed."""
        op = self.writers.get(tensor)
        return op.params["value"] if op is not None and op.kind == "constant" else None

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is a parameter or a number."""
        return self.parameter(tensor) is not None

    def array(self, tensor: str) -> np.ndarray | None:
        """Return the values of a constant that is not trained; None for any other tensor."""
        name = self.parameter(tensor)
        if name is None or name not in self.fixed:
            return None
        return np.asarray(self.params[name], np.float64).reshape(self.shape_of_constant(tensor))

    def shape_of_constant(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of a constant."""
        return tuple(1 if n is None else n for n in self.tensors[tensor].shape)

    def number(self, tensor: str) -> float | None:
        """Return the number behind a constant of one element that is not trained; None for any other tensor."""
        value = self.array(tensor)
        return None if value is None or value.size != 1 else float(value.item())

    def sources(self, op: Op) -> list[str]:
        """Return the tensors that an operator reads, without constants."""
        return [tensor for tensor in dict.fromkeys(op.inputs) if not self.is_constant(tensor)]

    def only_read_in(self, tensor: str, names: Set[str] | Mapping[str, Op]) -> bool:
        """Whether a tensor is read by the named operators alone."""
        return tensor not in self.graph.outputs and all(op.name in names for op in self.readers.get(tensor, ()))

    def regions(self, root: Op, admits: Callable[[Op], bool], most: int = 24) -> list[Region]:
        """Return the regions of admitted operators that end in a root, the smallest first; of ``most`` operators at most."""
        inside, frontier, found = {root.name: root}, set(self.sources(root)), []
        while frontier and len(inside) <= most:
            if len(frontier) == 1:
                found.append(Region(next(iter(frontier)), tuple(sorted(inside.values(), key=lambda op: self.order[op.name]))))
            # All ways lead back to the base: the tensor that is written last is the base, or leads to it.
            last = max(frontier, key=lambda tensor: self.order[self.writers[tensor].name] if tensor in self.writers else -1)
            op = self.writers.get(last)
            if op is None or not self.only_read_in(last, inside) or not admits(op):
                break
            inside[op.name] = op
            frontier = (frontier - {last}) | set(self.sources(op))
        return found

    # --- changes ---

    def add_tensor(self, name: str, shape: Sequence[int | None], example: Sequence[int] = ()) -> str:
        """Add a tensor of float32, and return its name."""
        while name in self.tensors:
            name += "_"
        self.tensors[name] = TensorSpec(name, tuple(shape), example=tuple(example))
        return name

    def add_param(self, name: str, value: np.ndarray, fixed: bool) -> str:
        """Add a parameter, and return its name."""
        while name in self.params:
            name += "_"
        self.params[name] = np.asarray(value, np.float32)
        if fixed:
            self.fixed.add(name)
        return name

    def replace(self, root: Op, *made: Op) -> None:
        """Put operators in the place of a root, and drop those that nobody reads any more."""
        ops: dict[str, Op] = {}
        for name, op in self.ops.items():
            ops |= {new.name: new for new in made} if name == root.name else {name: op}
        read = set(self.graph.outputs)
        kept: list[Op] = []
        for op in reversed(ops.values()):
            if read.intersection(op.outputs):
                kept.append(op)
                read.update(op.inputs)
        self._set({op.name: op for op in reversed(kept)})
        self.changed = True

    def bypass(self, op: Op, source: str) -> None:
        """Drop an operator, and let its readers read ``source``."""
        ops = {
            name: replace(other, inputs=tuple(source if t == op.output else t for t in other.inputs))
            for name, other in self.ops.items()
        }
        self._set(ops)
        self.replace(self.ops[op.name])

    def finished(self) -> Graph:
        """Return the graph as it is now."""
        if not self.changed:
            return self.graph
        # In the order of the operators, which the planner's borders follow.
        order = dict.fromkeys([*self.graph.inputs, *(name for op in self.ops.values() for name in op.outputs)])
        return self.graph.replace(ops=tuple(self.ops.values()), tensors={name: self.tensors[name] for name in order})
