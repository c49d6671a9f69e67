"""Means over any axes and the maximum of tensors, written as the pooling of images that the runtimes' kernels take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from .trace import Builder


def mean(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """``keras.ops.mean`` over neighbouring axes: those become the height of an image, all others its channels."""
    spec = b.specs[inputs[0]]
    rank, sizes = len(spec.shape), spec.shape[1:]
    axes = sorted(a % rank for a in (range(rank) if layer.axis is None else layer.axis))
    if axes != list(range(axes[0], axes[-1] + 1)) or axes[0] == 0 or None in sizes or spec.dtype != "float32":
        return None
    if rank == 4 and axes == [1, 2]:
        return b.emit("mean", inputs, output, path, axes=(1, 2), keepdims=bool(layer.keepdims))
    fixed = [int(n or 0) for n in sizes]
    before, inside, after = (math.prod(part) for part in (fixed[: axes[0] - 1], fixed[axes[0] - 1 : axes[-1]], fixed[axes[-1] :]))
    name, batch = inputs[0], spec.shape[0]
    if before > 1:
        name = b.reshape(name, (batch, before, inside, after), f"{path}_parts", path)
        turned = keras.KerasTensor((batch, inside, before, after))
        name = b.keep_one("move", keras.layers.Permute((2, 1, 3)), [name], turned, path, "Permute")
    name = b.reshape(name, (batch, inside, 1, before * after), f"{path}_image", path)
    name = b.emit("mean", [name], (batch, before * after), path, axes=(1, 2), keepdims=False)
    return name if len(output.shape) == 2 else b.reshape(name, tuple(output.shape), f"{path}_output", path)


def maximum(b: Builder, layer: Any, inputs: list[str], output: Any, path: str) -> str | None:
    """The greatest of tensors of one shape: laid below each other, they are an image of one column to be pooled."""
    shapes = {b.specs[name].shape for name in inputs}
    batch, *sizes = output.shape
    if len(inputs) < 2 or shapes != {tuple(output.shape)} or None in sizes or str(output.dtype) != "float32":
        return None
    count = math.prod(sizes)
    rows = [b.reshape(name, (batch, 1, 1, count), f"{path}_row", path) for name in inputs]
    column = b.emit("concat", rows, (batch, len(rows), 1, count), path, axis=1)
    window: dict[str, Any] = {"kernel": (len(rows), 1), "strides": (len(rows), 1), "padding": ((0, 0), (0, 0))}
    pooled = b.emit("max_pool2d", [column], (batch, 1, 1, count), path, **window)
    return b.reshape(pooled, tuple(output.shape), f"{path}_output", path)
