"""A BatchNorm of features, behind a flattening or a pooling say, written as one of images: the runtimes' kernels take images."""

from __future__ import annotations

import math
from dataclasses import replace

from ..graph import Graph, Op
from .draft import Draft


def norms_over_images(graph: Graph) -> Graph:
    """Return the graph with its BatchNorms on images of one column, as far as the axes but the channels merge.

    A BatchNorm of an input of the graph stays: it brings features of different units to one scale before rounding.

    Args:
        graph: with every BatchNorm folded that can be folded.
    """
    draft, producers = Draft(graph), graph.producers()
    for op in graph.ops:
        if op.kind != "batch_norm" or op.inputs[0] not in producers or not _merges(graph, op):
            draft.ops.append(op)
        else:
            _over_image(draft, op)
    return draft.finished()


def _merges(graph: Graph, op: Op) -> bool:
    spec = graph.tensors[op.inputs[0]]
    rank = len(spec.shape)
    last = op.attrs["axis"] % rank == rank - 1
    return rank != 4 and None not in spec.shape[1:] and (last if graph.layout == "NHWC" else rank == 2)


def _over_image(draft: Draft, op: Op) -> None:
    """Write a BatchNorm as a reshape to images, their BatchNorm, and a reshape back."""
    spec, channels_first = draft.tensors[op.inputs[0]], draft.graph.layout == "NCHW"

    def laid(shape: tuple[int | None, ...]) -> list[int | None]:
        batch, *between, channels = shape
        return [batch, channels, 1, 1] if channels_first else [batch, math.prod(n or 0 for n in between), 1, channels]

    example = [n or 0 for n in laid(spec.example)] if spec.example else []
    source, made = (draft.add_tensor(f"{op.output}_{name}", laid(spec.shape), example) for name in ("image", "normalized"))
    draft.reshape(op.inputs[0], source, op.scope)
    draft.ops.append(replace(op, inputs=(source,), outputs=(made,), attrs={**op.attrs, "axis": 1 if channels_first else 3}))
    draft.reshape(made, op.output, op.scope)
