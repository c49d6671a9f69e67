"""The inputs that a model wants: names, sizes and types, of which the batch and other axes may be free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.errors import DataError

#: How many samples a batch has where the file leaves that free.
BATCH = 8


@dataclass(frozen=True)
class Wanted:
    """An input.

    Attributes:
        name: in the file.
        shape: the sizes; None for a free one. The first axis is the batch.
        dtype: NumPy's name of its type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    @property
    def said(self) -> str:
        """The sizes for a person: ``(samples, 3, any, any)``."""
        return f"({', '.join('samples' if axis == 0 else str(n or 'any') for axis, n in enumerate(self.shape))})"

    @property
    def channel_axis(self) -> int | None:
        """The axis of an image's channels, 1 or 3; None where it is no image of one, three or four channels."""
        if len(self.shape) != 4:
            return None
        return next((axis for axis in (1, 3) if self.shape[axis] in (1, 3, 4)), None)

    @property
    def image_size(self) -> tuple[int | None, int | None]:
        """Height and width of an image."""
        height, width = (2, 3) if self.channel_axis == 1 else (1, 2)
        return self.shape[height], self.shape[width]

    def sized(self, size: tuple[int, int] | None) -> Wanted:
        """Return the input with the free sizes of its image set."""
        if size is None or self.channel_axis is None:
            return self
        height, width = (2, 3) if self.channel_axis == 1 else (1, 2)
        shape = list(self.shape)
        for axis, n in ((height, size[0]), (width, size[1])):
            if shape[axis] not in (None, n):
                raise DataError(f"input '{self.name}' has the size {shape[axis]} on axis {axis}: a size of {n} does not fit")
            shape[axis] = n
        return replace(self, shape=tuple(shape))

    def check(self, array: np.ndarray) -> np.ndarray:
        """Return samples of the input in its type.

        Raises:
            DataError: they do not fit its shape.
        """
        fits = array.ndim == len(self.shape) and all(n in (None, m) for n, m in zip(self.shape[1:], array.shape[1:], strict=True))
        if not len(array):
            raise DataError(f"the data for input '{self.name}' hold no samples: give one or more")
        if not fits:
            raise DataError(f"the data for input '{self.name}' have the shape {array.shape}, the model wants {self.said}")
        return np.ascontiguousarray(array, dtype=self.dtype)


def fixed_batch(wanted: Sequence[Wanted]) -> int | None:
    """Return how many samples the inputs take at once; None where that is free.

    Raises:
        DataError: they do not share their first axis: one is a single number, or a state whose samples are on another axis.
    """
    if number := next((w for w in wanted if not w.shape), None):
        raise DataError(f"input '{number.name}' is a single number without an axis for samples: make it a constant of the file")
    sizes = {w.shape[0] for w in wanted}
    fixed = sizes - {None}
    if len(fixed) > 1 or (None in sizes and fixed - {1}):
        one = next(w for w in wanted if w.shape[0] not in (None, 1))
        raise DataError(
            f"input '{one.name}' {one.shape} does not share its first axis with the other inputs, so that it is not that of the "
            "samples: export the model with the samples first in every input, or without it"
        )
    return fixed.pop() if fixed else None


def batches(arrays: Sequence[np.ndarray], size: int) -> list[tuple[np.ndarray, ...]]:
    """Return arrays of samples as batches of ``size``; those that do not fill one are left out, unless there is no other."""
    count = len(arrays[0])
    starts = range(0, count - size + 1, size) if count >= size else (0,)
    return [tuple(x[start : start + size] for x in arrays) for start in starts]


def unpacked(found: Sequence[tuple[np.ndarray, ...]]) -> list[Any]:
    """Return batches as training and calibration take them: one input is no tuple."""
    return [batch if len(batch) > 1 else batch[0] for batch in found]
