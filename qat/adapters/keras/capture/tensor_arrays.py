"""``tf.TensorArray`` in the call of a layer, as recurrences by hand have it: a list of tensors while the call is recorded.

Neither format has TensorFlow's lists of tensors. Where the places of the tensors are numbers, the list itself is not needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

_OF_TENSORFLOW = tf.TensorArray


class ListedArray:
    """The part of ``tf.TensorArray`` that code outside of loops in the graph uses; each change gives a new array, as there.

    In a graph, where Keras infers the shapes of its recurrent layers, it is TensorFlow's own.

    Args:
        dtype: of the tensors.
        size: how many tensors it holds at first; ``write`` makes it longer.
        given: is not used: how TensorFlow keeps the array.
    """

    def __new__(cls, *args: Any, **given: Any) -> Any:
        """Return an array of TensorFlow's in a graph."""
        return super().__new__(cls) if tf.executing_eagerly() else _OF_TENSORFLOW(*args, **given)

    def __init__(self, dtype: Any, size: Any = None, *args: Any, **given: Any) -> None:
        self.dtype = tf.as_dtype(dtype)
        self.element_shape = given.get("element_shape", tf.TensorShape(None))
        self._tensors: list[Any] = [None] * _number(0 if size is None else size)

    def _with(self, tensors: Sequence[Any]) -> ListedArray:
        made = ListedArray(self.dtype, element_shape=self.element_shape)
        made._tensors = list(tensors)
        return made

    def size(self, name: str | None = None) -> int:
        """Return the number of tensors."""
        return len(self._tensors)

    def write(self, index: Any, value: Any, name: str | None = None) -> ListedArray:
        """Return the array with another tensor at a place."""
        place, tensors = _number(index), list(self._tensors)
        tensors += [None] * (place + 1 - len(tensors))
        tensors[place] = value if isinstance(value, keras.KerasTensor) else ops.convert_to_tensor(value, self.dtype.name)
        return self._with(tensors)

    def read(self, index: Any, name: str | None = None) -> Any:
        """Return the tensor at a place."""
        return self._tensors[_number(index)]

    def stack(self, name: str | None = None) -> Any:
        """Return the tensors along a new first axis."""
        return ops.stack(self._tensors)

    def gather(self, indices: Any, name: str | None = None) -> Any:
        """Return the tensors at places along a new first axis."""
        return ops.stack([self._tensors[place] for place in np.asarray(indices).tolist()])

    def concat(self, name: str | None = None) -> Any:
        """Return the tensors behind each other along their first axis."""
        return ops.concatenate(self._tensors)

    def unstack(self, value: Any, name: str | None = None) -> ListedArray:
        """Return an array of the parts of a tensor along its first axis."""
        return self._with(ops.unstack(value))

    def identity(self) -> ListedArray:
        """Return the array."""
        return self


def _number(index: Any) -> int:
    """Return a place as a number; TypeError where it is not known."""
    return int(np.asarray(index))


@contextlib.contextmanager
def listed_arrays() -> Iterator[None]:
    """Let ``tf.TensorArray`` be a list."""
    tf.TensorArray = ListedArray
    try:
        yield
    finally:
        tf.TensorArray = _OF_TENSORFLOW
