"""The rules of means over any axes and of the maximum of tensors: the pooling of images that the runtimes' kernels take."""

from __future__ import annotations

import math
from typing import Any

from .builder import Builder
from .layer_calls import Call


def mean(b: Builder, c: Call) -> str | None:
    """``keras.ops.mean`` over neighbouring axes: those become the height of an image, all others its channels."""
    spec, axis = b.specs[c.inputs[0]], c.layer.axis
    rank, sizes = len(spec.shape), spec.shape[1:]
    axes = sorted(a % rank for a in (range(rank) if axis is None else axis))
    if axes != list(range(axes[0], axes[-1] + 1)) or axes[0] == 0 or None in sizes or spec.dtype != "float32":
        return None
    if rank == 4 and axes == [1, 2]:
        return b.emit("mean", c.inputs, c.output, c.path, axes=(1, 2), keepdims=bool(c.layer.keepdims))
    fixed = [int(n or 0) for n in sizes]
    before, inside, after = (math.prod(part) for part in (fixed[: axes[0] - 1], fixed[axes[0] - 1 : axes[-1]], fixed[axes[-1] :]))
    name, batch = c.inputs[0], spec.shape[0]
    if before > 1:
        name = b.reshape(name, (batch, before, inside, after), f"{c.path}_parts", c.path)
        name = b.emit("transpose", [name], (batch, inside, before, after), f"{c.path}_turned", axes=(0, 2, 1, 3))
    name = b.reshape(name, (batch, inside, 1, before * after), f"{c.path}_image", c.path)
    name = b.emit("mean", [name], (batch, before * after), c.path, axes=(1, 2), keepdims=False)
    return name if len(c.shape) == 2 else b.reshape(name, c.shape, f"{c.path}_output", c.path)


def maximum(b: Builder, c: Call) -> str | None:
    """The greatest of tensors of one shape: below each other, they are an image of one column to be pooled."""
    batch, *sizes = c.shape
    same = {b.specs[name].shape for name in c.inputs} == {c.shape}
    if len(c.inputs) < 2 or not same or None in sizes or str(c.output.dtype) != "float32":
        return None
    count = math.prod(int(n or 0) for n in sizes)
    flat = [b.reshape(name, (batch, 1, 1, count), f"{c.path}_row", c.path) for name in c.inputs]
    column = b.emit("concat", flat, (batch, len(flat), 1, count), c.path, axis=1)
    window: dict[str, Any] = {"kernel": (len(flat), 1), "strides": (len(flat), 1), "padding": ((0, 0), (0, 0))}
    pooled = b.emit("max_pool2d", [column], (batch, 1, 1, count), c.path, **window)
    return b.reshape(pooled, c.shape, f"{c.path}_output", c.path)
