"""The rules of operations that cut a tensor into several, or lay several on a new axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras.src.ops.core import Slice

from .builder import Builder, Shape
from .layer_calls import Call, placeholder

#: Adds the operators of a call with several outputs, and returns their names; None for one that stays float.
RuleOfSeveral = Callable[[Builder, Call, Sequence[keras.KerasTensor]], list[str] | None]


def _slice(b: Builder, source: str, axis: int, start: int, size: int, path: str) -> str:
    """Add the part of a tensor along one axis."""
    shape = b.specs[source].shape
    starts, sizes = [0] * len(shape), [-1] * len(shape)
    starts[axis], sizes[axis] = start, size
    made = keras.KerasTensor((*shape[:axis], size, *shape[axis + 1 :]), b.specs[source].dtype)
    return b.keep("move", Slice(tuple(sizes)), [source], [made], path, ([placeholder(0), starts], {}))[0]


def _split(b: Builder, c: Call, outputs: Sequence[keras.KerasTensor]) -> list[str] | None:
    axis = c.layer.axis % len(c.shape)
    sizes = [output.shape[axis] for output in outputs]
    if axis == 0 or None in sizes:
        return None
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [_slice(b, c.inputs[0], axis, start, size, c.path) for start, size in zip(starts, sizes, strict=True)]


def _unstack(b: Builder, c: Call, outputs: Sequence[keras.KerasTensor]) -> list[str] | None:
    axis = c.layer.axis % (len(c.shape) + 1)
    if None in c.shape[1:] or b.specs[c.inputs[0]].shape[axis] is None:
        return None
    parts = [_slice(b, c.inputs[0], axis, index, 1, c.path) for index in range(len(outputs))]
    if axis == 0:  # the batch comes after it
        shape = (-1, *c.shape[1:])
        return [b.emit("reshape", [part], tuple(c.shape), f"{c.path}_part", shape=shape, folds=True) for part in parts]
    return [b.reshape(part, tuple(c.shape), f"{c.path}_part", c.path) for part in parts]


#: The rules of operations with several outputs.
MULTIPLE: dict[str, RuleOfSeveral] = {"Split": _split, "Unstack": _unstack}


def stack(b: Builder, c: Call) -> str | None:
    """``keras.ops.stack``: each tensor gets an axis of one, and all are concatenated there."""
    axis = c.layer.axis % len(c.shape)
    if axis == 0 or None in c.shape[1:] or str(c.output.dtype) != "float32" or len(c.inputs) < 2:
        return None
    line: Shape = (*c.shape[:axis], 1, *c.shape[axis + 1 :])
    parts = {name: b.reshape(name, line, f"{c.path}_part", c.path) for name in dict.fromkeys(c.inputs)}
    return b.emit("concat", [parts[name] for name in c.inputs], c.output, c.path, axis=axis)


def glu(b: Builder, c: Call) -> str | None:
    """``keras.ops.glu``: one half of a tensor, times the sigmoid of the other."""
    axis = c.layer.axis % len(c.shape)
    size = c.shape[axis]
    if axis == 0 or size is None:
        return None
    half, gate = (_slice(b, c.inputs[0], axis, start, size, c.path) for start in (0, size))
    return b.emit("mul", [half, b.emit("sigmoid", [gate], c.output, c.path)], c.output, c.path)
