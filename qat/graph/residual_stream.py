"""The residual stream of a transformer: the sums that its blocks add to, and the norms that read or write it.

Every block reads the stream and adds to it, so an error that enters it stays in it to the end, and a few channels of it may be
hundreds of times as large as the others ("Massive Activations in Large Language Models", Sun et al. 2024). Before the norm
(ViT) a block is ``x + f(norm(x))``, after it (BERT) ``norm(x + f(x))``; embeddings are summed at the start of either.
"""

from __future__ import annotations

from .graph import Graph, Op
from .kinds import KINDS


def residual_stream(graph: Graph) -> tuple[str, ...]:
    """Return the names of the operators that make up the residual stream, in their order; none where a model has no stream.

    They are the sums that a LayerNorm or RMSNorm reads, the sums that those read or are read by, the norms that read the stream
    or write to it, and what only moves values about between two of these: reshapes, transpositions, slices, means.

    Examples:
        >>> import qat, torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> plan = qat.plan(layer.eval(), torch.zeros(2, 4, 8))
        >>> [planned.op.kind for planned in plan.residual_stream()]
        ['add', 'layer_norm', 'add', 'layer_norm']
    """
    stream = _Stream(graph)
    return tuple(op.name for op in graph.ops if op.name in stream.members)


class _Stream:
    """The members of the stream.

    Attributes:
        origins: for each tensor the operators, or inputs of the model, that its values come from, whatever moved them since.
        varying: the tensors that depend on the model's inputs.
        members: the names of the operators that belong to the stream.
    """

    def __init__(self, graph: Graph) -> None:
        self.origins = {name: frozenset([name]) for name in graph.inputs}
        self.varying = set(graph.inputs)
        for op in graph.ops:
            self.origins |= dict.fromkeys(op.outputs, self._behind(op) if KINDS[op.kind].carries else frozenset([op.name]))
            if self.varying.intersection(op.inputs):
                self.varying.update(op.outputs)
        self.sums = [op for op in graph.ops if op.kind == "add"]
        self.norms = [op for op in graph.ops if _normalizes(op)]
        self.members = self._grown()
        if not any(op.name in self.members and self._joins(op) for op in self.sums):
            self.members = set()  # A bias or an embedding before a norm; no block adds to it.
        self.members |= self._between(graph)

    def _behind(self, op: Op) -> frozenset[str]:
        """Return where the values come from that an operator reads."""
        return frozenset[str]().union(*(self.origins[name] for name in op.inputs))

    def _joins(self, op: Op) -> bool:
        """Whether a sum is that of two activations."""
        return self.varying.issuperset(op.inputs)

    def _grown(self) -> set[str]:
        """Return the sums and the norms of the stream: from the sums that a norm reads on, until nothing is added any more."""
        names = {op.name for op in self.sums}
        behind = {op.name: self._behind(op) for op in (*self.sums, *self.norms)}
        members: set[str] = set()
        before = -1
        while before != len(members):
            before = len(members)
            read = frozenset[str]().union(*(behind[name] for name in members))
            summed = frozenset[str]().union(*(behind[name] for name in members & names))
            for norm in self.norms:
                if not behind[norm.name].isdisjoint(names | members | summed) or norm.name in read:
                    members |= {norm.name, *behind[norm.name] & names}
            for op in self.sums:
                if op.name in read or (self._joins(op) and not behind[op.name].isdisjoint(members)):
                    members.add(op.name)
        return members

    def _between(self, graph: Graph) -> set[str]:
        """Return what moves values of the stream to another member of it."""
        found: set[str] = set()
        read = {name for op in graph.ops if op.name in self.members for name in op.inputs}
        for op in reversed(graph.ops):
            if KINDS[op.kind].carries and read.intersection(op.outputs) and not self._behind(op).isdisjoint(self.members):
                found.add(op.name)
                read.update(op.inputs)
        return found


def _normalizes(op: Op) -> bool:
    """Whether an operator is a norm, of a kind of its own or of its framework."""
    kind = KINDS.get(op.attrs.get("computes", op.kind))
    return kind is not None and kind.normalizes
