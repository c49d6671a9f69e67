"""Layers whose ``call`` computes with the number of samples: recorded at two numbers, then freed of them.

A call is recorded twice, with two numbers of samples. What differs between the two records comes from that number. Where it is
an axis of a shape, or the first axis of a constant whose samples are equal, the axis is free again; anywhere else the call
cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.ops.numpy import Tile
from keras.src.ops.symbolic_arguments import SymbolicArguments

from .batch_operations import PerSample, SpreadOverBatch

#: Two numbers of samples that the windows, heads and groups of models divide.
NUMBERS = (192, 320)

#: Tensors with a number of samples, and the caller's with a free one.
StandIns = tuple[tuple[keras.KerasTensor, keras.KerasTensor], ...]

#: The attribute of an operation that holds the shape of its output.
_SHAPES = {"Reshape": "newshape", "BroadcastTo": "shape", "Slice": "shape", "Tile": "repeats", "Repeat": "repeats"}


class CountsSamples(Exception):
    """A call computes with the number of samples; the message is the name of the operation that does."""


@dataclass(frozen=True)
class Record:
    """One call of a layer or an operation, in the form of Keras' own records."""

    operation: keras.Operation
    arguments: SymbolicArguments
    outputs: Sequence[keras.KerasTensor]


def with_samples(arguments: Any, number: int | None) -> tuple[Any, StandIns]:
    """Return arguments with other tensors, of a number of samples where that is free, and the two beside each other."""
    made: dict[int, tuple[keras.KerasTensor, keras.KerasTensor]] = {}

    def counted(value: Any) -> Any:
        if isinstance(value, PerSample) and number is not None:
            return value.for_samples(number)
        if not isinstance(value, keras.KerasTensor):
            return value
        if id(value) not in made:
            shape = (number, *value.shape[1:]) if value.shape[:1] == (None,) else value.shape
            made[id(value)] = keras.KerasTensor(shape, value.dtype, name=value.name), value
            if (mask := get_keras_mask(value)) is not None:
                set_keras_mask(made[id(value)][0], counted(mask))
        return made[id(value)][0]

    return keras.tree.map_structure(counted, arguments), tuple(made.values())


def freed(first: Sequence[Any], second: Sequence[Any], like: keras.KerasTensor) -> tuple[Record, ...]:
    """Return the first of two records of one call, with the number of samples free.

    Args:
        first: the calls of operations with the first of :data:`NUMBERS`, in order.
        second: with the second one.
        like: a tensor of the first record that has as many samples.

    Raises:
        CountsSamples: the number of samples is part of something else than a first axis.
    """
    if [type(node.operation) for node in first] != [type(node.operation) for node in second]:
        raise CountsSamples("call")
    freeing = _Freeing(like)
    records = tuple(freeing.record(a, b) for a, b in zip(first, second, strict=True))
    for tensor, axis in freeing.counted:
        free_batch(tensor, axis)
    return records


def is_array(value: Any) -> bool:
    """Return whether a value of a call is known: a tensor with numbers, or an array; a symbolic tensor is neither."""
    return bool(ops.is_tensor(value)) or isinstance(value, np.ndarray)


def free_batch(tensor: keras.KerasTensor, axis: int = 0) -> None:
    """Leave the number of samples of a recorded tensor free."""
    tensor._shape = (*tensor.shape[:axis], None, *tensor.shape[axis + 1 :])


class _Freeing:
    """Compares two records of one call, value by value.

    Attributes:
        counted: the tensors that have an axis of the samples, and that axis.
    """

    def __init__(self, like: keras.KerasTensor) -> None:
        self.like = like
        self.counted: list[tuple[keras.KerasTensor, int]] = []
        self.name = ""

    def record(self, a: Any, b: Any) -> Record:
        """Return a call of an operation with the number of samples free."""
        self.name = a.operation.name
        args, kwargs = self._same((a.arguments.args, a.arguments.kwargs), (b.arguments.args, b.arguments.kwargs))
        operation, args = self._operation(a, b, args)
        for one, other in zip(a.outputs, b.outputs, strict=True):
            if (axis := self._free_axis(one.shape, other.shape)) is not None:
                self.counted.append((one, axis))
        return Record(operation, SymbolicArguments(*args, **kwargs), a.outputs)

    def _operation(self, first: Any, second: Any, args: tuple[Any, ...]) -> tuple[keras.Operation, tuple[Any, ...]]:
        """Return the operation of a call without the number of samples, and the positional arguments that it takes then."""
        a, b = first.operation, second.operation
        if a is b or isinstance(a, keras.layers.Layer):
            return a, args
        kind, held = type(a).__name__, _SHAPES.get(type(a).__name__, "")
        for key in vars(a):
            if key != held and key != "name" and not key.startswith("_"):
                self._same(getattr(a, key), getattr(b, key))
        if not held or getattr(a, held) == getattr(b, held):
            return a, args
        shape, other = (tuple(np.ravel(getattr(each, held)).tolist()) for each in (a, b))
        if kind == "Repeat":
            if a.axis != 0:
                raise CountsSamples(self.name)
            axis: int | None = 0
        else:
            axis = self._free_axis(shape, other)
        if kind in ("Reshape", "Slice") and axis is not None:
            made = first.outputs[0].shape
            return type(a)((*made[:axis], -1, *made[axis + 1 :]), name=a.name), args
        if axis != 0:
            raise CountsSamples(self.name)
        x = args[0]
        if kind == "BroadcastTo" and len(x.shape) == len(shape) and x.shape[0] == shape[0]:  # over other axes than the samples'
            return Tile([n // m for n, m in zip(shape, x.shape, strict=True)], name=a.name), args
        if shape[0] != NUMBERS[0] or (x.shape[0] != 1 and len(x.shape) >= len(shape)):
            raise CountsSamples(self.name)
        if kind == "BroadcastTo":
            return SpreadOverBatch(shape[1:], name=a.name), (x, self.like)
        if kind == "Tile" and (set(shape[1:]) - {1} or len(x.shape) != len(shape)):
            raise CountsSamples(self.name)
        return SpreadOverBatch(tuple(x.shape[1:]), name=a.name), (x, self.like)

    def _free_axis(self, shape: Sequence[Any], other: Sequence[Any]) -> int | None:
        """Return the axis of two shapes that is of the samples, alone or with others folded into it; None without one."""
        if tuple(shape) == tuple(other):
            return None
        differ = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
        if len(shape) != len(other) or len(differ) != 1 or shape[differ[0]] * NUMBERS[1] != other[differ[0]] * NUMBERS[0]:
            raise CountsSamples(self.name)
        return differ[0]

    def _same(self, a: Any, b: Any) -> Any:
        """Return a value that two records have in common; of a constant for each sample, one sample."""
        if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
            return type(a)(self._same(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return {key: self._same(a[key], b[key]) for key in a}
        if a is b or (isinstance(a, keras.KerasTensor) and isinstance(b, keras.KerasTensor)):
            return a
        if is_array(a):
            one, other = np.asarray(ops.convert_to_numpy(a)), np.asarray(ops.convert_to_numpy(b))
            if np.array_equal(one, other):
                return a
            counted = self._free_axis(one.shape, other.shape) == 0 and len(one) == NUMBERS[0]
            if counted and (one == one[:1]).all() and (other == one[:1]).all():
                return PerSample(one[:1], self.like)
            raise CountsSamples(self.name)
        if type(a) is type(b) and a == b:
            return a
        raise CountsSamples(self.name)
