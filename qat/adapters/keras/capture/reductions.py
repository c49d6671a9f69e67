"""The rules of reductions over any axes but the batch: means, sums, maxima, and those that only a normalization makes use of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .builder import Builder, Rule
from .layer_calls import Call


def mean(b: Builder, c: Call) -> str | None:
    """``keras.ops.mean`` over any axes but the batch."""
    axes = _axes(b, c)
    if not axes:
        return None
    return b.emit("mean", c.inputs, c.output, c.path, axes=axes, keepdims=bool(c.layer.keepdims))


def spread(computes: str) -> Rule:
    """Return the rule of a variance or a standard deviation over axes, a piece of a normalization perhaps."""

    def rule(b: Builder, c: Call) -> str | None:
        axes = _axes(b, c)
        return b.computes(computes, c, axes=axes, keepdims=bool(c.layer.keepdims), correction=0) if axes else None

    return rule


def norm(b: Builder, c: Call) -> str | None:
    """The length of vectors along axes."""
    axes = _axes(b, c) if c.layer.ord in (None, 2, "euclidean") else ()
    return b.computes("norm", c, axes=axes, keepdims=bool(c.layer.keepdims)) if axes else None


def greatest(b: Builder, c: Call) -> str | None:
    """The greatest value over axes, which moves an integer."""
    axes = _axes(b, c)
    if not axes or getattr(c.layer, "initial", None) is not None:
        return None
    return b.computes("maximum_over", c, "move", axes=axes, keepdims=bool(c.layer.keepdims))


def total(b: Builder, c: Call) -> str | None:
    """The sum over axes: the mean times the number of its terms."""
    axes = _axes(b, c)
    if not axes:
        return None
    name = b.emit("mean", c.inputs, c.output, c.path, axes=axes, keepdims=bool(c.layer.keepdims))
    count = math.prod(int(b.specs[c.inputs[0]].shape[a] or 1) for a in axes)
    return b.emit("mul", [name, b.constant(np.full([1] * len(c.shape), count, np.float32), c.path)], c.output, c.path)


def _axes(b: Builder, c: Call) -> tuple[int, ...]:
    """Return the axes of a reduction of one float tensor; empty where the batch is one of them, or a size is not fixed."""
    spec, axis = b.specs[c.inputs[0]], c.layer.axis
    rank = len(spec.shape)
    axes = tuple(sorted(a % rank for a in (range(rank) if axis is None else [axis] if isinstance(axis, int) else axis)))
    return () if 0 in axes or None in spec.shape[1:] or spec.dtype != "float32" or len(c.inputs) != 1 else axes


def unit_norm(b: Builder, name: str, count: int, path: str, least: float, **where: Any) -> str:
    """Add ``x / sqrt(sum(x^2))``: the root of the mean square, and a factor. Return the output's name.

    Args:
        b: the graph.
        name: of the tensor.
        count: of the elements that a norm sums.
        path: of the layer.
        least: the norm below which Keras divides by no other.
        where: the attribute that names other axes than the last.
    """
    factor = count**-0.5
    params = {"gamma": np.full(count, factor, np.float32)}
    return b.emit("rms_norm", [name], b.specs[name].shape, path, params, epsilon=0.0, least=least * factor, **where)
