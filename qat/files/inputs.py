"""The inputs that a model wants: names, sizes and types, of which the batch and other axes may be free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qat.errors import DataError
from qat.system.sample_axes import Axes, Size, axis_of, sample_axes, samples_along, samples_first

#: How many samples a batch has where the file leaves that free.
BATCH = 8


@dataclass(frozen=True)
class Wanted:
    """An input.

    Attributes:
        name: in the file.
        shape: the sizes; None for a free one.
        dtype: NumPy's name of its type.
        axis: that counts the samples; None where one sample is the whole of the input.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    axis: int | None = 0

    @property
    def said(self) -> str:
        """The sizes for a person: ``(samples, 3, any, any)``."""
        sizes = ["samples" if axis == self.axis else str(n or "any") for axis, n in enumerate(self.shape)]
        return f"({', '.join(['samples', *sizes] if self.axis is None else sizes)})"

    @property
    def of_one(self) -> tuple[int | None, ...]:
        """The sizes of a sample."""
        return tuple(n for axis, n in enumerate(self.shape) if axis != self.axis)

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
        """Return samples of the input in its type, ``[samples, ...]``.

        They lie as the input's do, or are stacked: of each one all axes of the input. One that belongs to all samples, as a mask
        does, may be given once.

        Raises:
            DataError: they do not fit its shape.
        """
        if self.axis is not None and array.ndim == len(self.shape) + 1 and array.shape[1 + self.axis] == 1:
            array = array.squeeze(1 + self.axis)
        elif array.ndim == len(self.shape):
            array = samples_first(array, self.axis)
        fits = array.ndim == 1 + len(self.of_one) and all(
            n in (None, m) for n, m in zip(self.of_one, array.shape[1:], strict=True)
        )
        if array.ndim and not len(array):
            raise DataError(f"the data for input '{self.name}' hold no samples: give one or more")
        if not fits:
            raise DataError(f"the data for input '{self.name}' have the shape {array.shape}, the model wants {self.said}")
        return np.ascontiguousarray(array, dtype=self.dtype)


def with_axes(wanted: Sequence[Wanted], names: Sequence[Sequence[Size]]) -> tuple[list[Wanted], int | None]:
    """Return the inputs with their axes of samples, and how many samples they take at once; None where that is free.

    Args:
        wanted: the inputs.
        names: their sizes, of the free ones the names.
    """
    size, axes = sample_axes(names)
    return [replace(w, axis=axis) for w, axis in zip(wanted, axes, strict=True)], size if isinstance(size, int) else None


def axes_of(wanted: Sequence[Wanted]) -> Axes:
    """Return the axes of samples of inputs."""
    return tuple(w.axis for w in wanted)


def batches(arrays: Sequence[np.ndarray], size: int, axes: Axes) -> list[tuple[np.ndarray, ...]]:
    """Return arrays of samples as batches of ``size``; those that do not fill one are left out, unless there is no other.

    Args:
        arrays: ``[samples, ...]``.
        size: of the batches.
        axes: of each array that which counts the samples in a batch.
    """
    count = len(arrays[0])
    starts = range(0, count - size + 1, size) if count >= size else (0,)
    return [tuple(samples_along(x[start : start + size], axis) for x, axis in zip(arrays, axes, strict=True)) for start in starts]


def joined(parts: Sequence[Sequence[np.ndarray]], size: int, axes: Axes) -> list[np.ndarray]:
    """Return the outputs of batches of ``size``, joined: ``[samples, ...]`` where the samples of an input lie otherwise, too.

    Args:
        parts: the outputs of each batch.
        size: of the batches.
        axes: of the inputs.
    """
    columns = zip(*parts, strict=True)
    if all(axis == 0 for axis in axes):
        return [np.concatenate(column) for column in columns]
    return [np.concatenate([samples_first(y, axis_of(y, size)) for y in column]) for column in columns]


def unpacked(found: Sequence[tuple[np.ndarray, ...]]) -> list[Any]:
    """Return batches as training and calibration take them: one input is no tuple."""
    return [batch if len(batch) > 1 else batch[0] for batch in found]
