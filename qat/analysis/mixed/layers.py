"""The layers of a graph that have a precision to choose, and the tensors by which they are bound to each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from qat.graph.graph import Graph, Op
from qat.graph.kinds import KINDS

#: Layers at one junction are looked at in pairs as far as so many others lie between them: a residual stream joins all.
_NEIGHBOURS = 8


@dataclass(frozen=True)
class Layer:
    """Operators whose weights have one precision: those of one scope, and those that share a weight.

    Attributes:
        name: the first scope.
        scopes: of its operators, as rules of recipes match them.
        ops: the operators' names.
    """

    name: str
    scopes: tuple[str, ...]
    ops: tuple[str, ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """The regular expressions that match the scopes and nothing else."""
        return tuple(f"^{re.escape(scope)}$" for scope in self.scopes)


@dataclass(frozen=True)
class Junction:
    """Tensors that operators without weights connect, from the layers that write them to the layers that read them.

    Attributes:
        layers: that write or read one of the tensors, in the graph's order.
        ops: the operators without weights.
    """

    layers: tuple[Layer, ...]
    ops: tuple[Op, ...]

    def pairs(self) -> Iterable[tuple[Layer, Layer]]:
        """Yield the layers that are near each other, two by two."""
        for index, layer in enumerate(self.layers):
            yield from ((layer, other) for other in self.layers[index + 1 : index + 1 + _NEIGHBOURS])


def has_precision(op: Op) -> bool:
    """Whether an operator has a weight that recipes store in another form."""
    kind = KINDS[op.kind]
    return bool(op.params) and bool(op.inputs) and (kind.linear or bool(kind.output_grid))


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """Return the layers of a graph in its order."""
    ops = [op for op in graph.ops if has_precision(op)]
    sets = _Sets()
    for op in ops:
        weight = op.params.get("weight", op.name)
        sets.join(f"op {op.name}", f"scope {op.layer}", f"weight {weight}")
    found: dict[str, list[Op]] = {}
    for op in ops:
        found.setdefault(sets.of(f"op {op.name}"), []).append(op)
    return tuple(
        Layer(group[0].layer, tuple(dict.fromkeys(op.layer for op in group)), tuple(op.name for op in group))
        for group in found.values()
    )


def junctions_of(graph: Graph, layers: Iterable[Layer]) -> tuple[Junction, ...]:
    """Return the junctions between layers, in the order of the graph's tensors."""
    layer_of = {name: layer for layer in layers for name in layer.ops}
    sets = _Sets()
    for op in graph.ops:
        if op.name not in layer_of:
            sets.join(*op.inputs, *op.outputs)
    touching: dict[str, dict[str, Layer]] = {}
    within: dict[str, list[Op]] = {}
    for op in graph.ops:
        roots = dict.fromkeys(sets.of(tensor) for tensor in (*op.inputs, *op.outputs))
        for root in roots:
            layer = layer_of.get(op.name)
            if layer is None:
                within.setdefault(root, []).append(op)
            else:
                touching.setdefault(root, {})[layer.name] = layer
    return tuple(Junction(tuple(found.values()), tuple(within.get(root, ()))) for root, found in touching.items())


class _Sets:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the name that stands for the set of a name."""
        while (above := self.parent.setdefault(name, name)) != name:
            name = above
        return name

    def join(self, *names: str) -> None:
        """Make one set of those of some names."""
        for one, other in pairwise(names):
            self.parent[self.of(other)] = self.of(one)
