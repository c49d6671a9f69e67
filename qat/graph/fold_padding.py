"""A padding with zeros before a convolution joins the convolution's own.

TFLite's SAME may pad an image by one element more at its end than at its start, where PyTorch's convolutions pad evenly: a model
that was read from a file has an operator for it.
"""

from __future__ import annotations

from dataclasses import replace

from .graph import Graph, Op
from .kinds import KINDS


def fold_padding(graph: Graph) -> Graph:
    """Return the graph without the paddings of images that only convolutions read."""
    producers, readers = graph.producers(), graph.consumers()

    def joins(op: Op | None) -> bool:
        """Whether an operator is a padding that each of its readers can do."""
        return op is not None and op.kind == "pad" and op.output not in graph.outputs and all(map(_pads, readers[op.output]))

    ops = []
    for op in graph.ops:
        if joins(op):
            continue
        before = producers.get(op.inputs[0]) if op.inputs and _pads(op) else None
        if before is not None and joins(before):
            sides = zip(op.attrs["padding"], before.attrs["padding"], strict=True)
            padding = tuple((a + c, b + d) for (a, b), (c, d) in sides)
            op = replace(op, inputs=before.inputs, attrs={**op.attrs, "padding": padding})
        ops.append(op)
    gone = {op.output for op in graph.ops if joins(op)}
    return graph.replace(ops=tuple(ops), tensors={name: spec for name, spec in graph.tensors.items() if name not in gone})


def _pads(op: Op) -> bool:
    kind = KINDS[op.kind]
    return kind.linear and kind.spatial == 2 and not kind.transposed
