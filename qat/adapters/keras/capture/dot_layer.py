"""The layer ``Dot``: a product of two tensors, sample by sample, over one axis of each."""

from __future__ import annotations

import math

import keras

from .attention import permuted
from .builder import Builder
from .layer_calls import Call
from .reductions import unit_norm


def dot_layer(b: Builder, c: Call) -> str | None:
    """A matrix product of the two tensors with the axis of each last, the others merged; with ``normalize`` of unit vectors."""
    shapes = [b.specs[name].shape for name in c.inputs]
    if any(None in shape[1:] or b.specs[name].dtype != "float32" for shape, name in zip(shapes, c.inputs, strict=True)):
        return None
    axes = [c.layer.axes] * 2 if isinstance(c.layer.axes, int) else c.layer.axes
    sides = []
    for name, axis, shape in zip(c.inputs, axes, shapes, strict=True):
        summed = axis % len(shape)
        name = permuted(b, name, (*(a for a in range(len(shape)) if a != summed), summed), c.path)
        if c.layer.normalize:
            name = unit_norm(b, name, shape[summed] or 1, f"{c.path}_unit", keras.config.epsilon())
        rows, size = math.prod(n or 1 for a, n in enumerate(shape) if a not in (0, summed)), shape[summed]
        sides.append(name if len(shape) == 3 else b.reshape(name, (shape[0], rows, size), f"{c.path}_merged", c.path))
    made = (shapes[0][0], *(b.specs[name].shape[1] for name in sides))
    product = b.emit("matmul", sides, made, c.path, transpose_b=True)
    return product if made == c.shape else b.reshape(product, c.shape, f"{c.path}_split", c.path)
