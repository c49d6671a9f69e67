"""Means over any axes but the batch, written as means over images: the runtimes' integer kernels take no others.

The axes to be reduced are merged into the height of an image of one column, all others into its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..graph import Graph, Op
from .draft import Draft, product

#: The spatial axes of an image.
SPATIAL = {"NCHW": (2, 3), "NHWC": (1, 2)}


def means_over_images(graph: Graph) -> Graph:
    """Return the graph with every mean written as one over the spatial axes of images."""
    draft = Draft(graph)
    for op in graph.ops:
        rank = len(graph.tensors[op.inputs[0]].shape) if op.kind == "mean" else 0
        axes = tuple(sorted(a % rank for a in op.attrs["axes"])) if rank else ()
        if not rank or (rank == 4 and axes == SPATIAL[graph.layout]):
            draft.ops.append(op)
        else:
            _over_image(draft, op, axes)
    return draft.finished()


def _over_image(draft: Draft, op: Op, axes: tuple[int, ...]) -> None:
    """Write a mean as a transpose, a reshape to images, their mean, and a reshape to the shape of the output."""
    (source,), output, layout = op.inputs, draft.tensors[op.output], draft.graph.layout
    spec = draft.tensors[source]
    kept = [a for a in range(1, len(spec.shape)) if a not in axes]
    order = (0, *kept, *axes) if layout == "NCHW" else (0, *axes, *kept)
    if order != tuple(sorted(order)):
        example = [spec.example[a] for a in order] if spec.example else ()
        turned = draft.add_tensor(f"{op.output}_transposed", [spec.shape[a] for a in order], example)
        draft.ops.append(Op(turned, "transpose", (source,), (turned,), {}, {"axes": order}, op.scope))
        source = turned

    def laid(shape: Sequence[int | None]) -> list[int | None]:
        channels, height = (product([shape[a] for a in part]) for part in (kept, axes))
        return [shape[0], channels, height, 1] if layout == "NCHW" else [shape[0], height, 1, channels]

    examples = [n or 0 for n in laid(spec.example)] if spec.example else []
    image = draft.add_tensor(f"{op.output}_image", laid(spec.shape), examples)
    draft.reshape(source, image, op.scope)
    channels = 1 if layout == "NCHW" else 3
    shape = (spec.shape[0], laid(spec.shape)[channels])
    last = output.shape == shape
    mean = output.name if last else _of_one_place(draft, op, image, channels)
    attrs = {"axes": SPATIAL[layout], "keepdims": not last}
    draft.ops.append(replace(op, inputs=(image,), outputs=(mean,), attrs=attrs))
    if mean != op.output:
        draft.reshape(mean, op.output, op.scope)


def _of_one_place(draft: Draft, op: Op, image: str, channels: int) -> str:
    """Return the tensor of a mean of images that keeps their axes: the output, or one that a reshape alone makes it of."""
    spec = draft.tensors[image]
    shape = tuple(n if a in (0, channels) else 1 for a, n in enumerate(spec.shape))
    example = [n if a in (0, channels) else 1 for a, n in enumerate(spec.example)]
    return op.output if draft.tensors[op.output].shape == shape else draft.add_tensor(f"{op.output}_mean", shape, example)
