"""The rules of means over any axes, and of the maximum of tensors as a pooling of images."""

from __future__ import annotations

import math
from typing import Any

from .builder import Builder
from .layer_calls import Call


def mean(b: Builder, c: Call) -> str | None:
    """``keras.ops.mean`` over any axes but the batch."""
    spec, axis = b.specs[c.inputs[0]], c.layer.axis
    rank = len(spec.shape)
    axes = tuple(sorted(a % rank for a in (range(rank) if axis is None else axis)))
    if axes[0] == 0 or None in spec.shape[1:] or spec.dtype != "float32":
        return None
    return b.emit("mean", c.inputs, c.output, c.path, axes=axes, keepdims=bool(c.layer.keepdims))


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
