"""The axis of each input that counts the samples: mostly the first, the second of a recurrent state ``[layers, samples]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

#: A size: a number, or the name of a free one, None where it has none.
Size: TypeAlias = int | str | None
#: For each input its axis of samples; None where one sample is the whole of the input.
Axes: TypeAlias = tuple[int | None, ...]


def sample_axes(shapes: Sequence[Sequence[Size]]) -> tuple[Size, Axes]:
    """Return how many samples inputs of these sizes take at once, and along which axis of each.

    The first axes count the samples where they have one size. Else it is a size that all inputs have on some axis: one that is
    free, or 1, where an input begins with such a size. Without it the inputs are one sample: along the first axis of one, or of
    any, size; of an input that has none, such as a mask of all samples, as a whole.

    Examples:
        >>> sample_axes([("n", 80), (2, "n", 64)])
        ('n', (0, 1))
        >>> sample_axes([(1, 80), (2, 64)])
        (1, (0, None))
        >>> sample_axes([("n", 16, 8), (16, 16)])
        (1, (0, None))
    """
    if not shapes:
        return None, ()
    first = list(dict.fromkeys(shape[0] if shape else 0 for shape in shapes))
    if (len(first) == 1 and all(shapes)) or not any(isinstance(size, int) for size in first):
        return first[0], (0,) * len(shapes)
    of_many = all(isinstance(size, int) and size != 1 for size in first)
    heads = [size for size in first if of_many or not isinstance(size, int)]
    for size in dict.fromkeys([*heads, *(n for shape in shapes for n in shape if not isinstance(n, int)), 1]):
        if all(size in shape for shape in shapes):
            return size, tuple(shape.index(size) for shape in shapes)
    return 1, tuple(next((axis for axis, n in enumerate(shape) if n == 1 or not isinstance(n, int)), None) for shape in shapes)


def axes_of_batch(shapes: Sequence[Sequence[int]]) -> Axes:
    """Return the axes of samples of a batch whose model is not known.

    They are those of :func:`sample_axes` where the first input has its samples first. Else the others belong to all samples if
    their sizes are some of a sample's of the first one; else each input has its samples first.

    Examples:
        >>> axes_of_batch([(4, 80), (2, 4, 64)]), axes_of_batch([(4, 16, 8), (16, 16)])
        ((0, 1), (0, None))
    """
    _, axes = sample_axes(shapes)
    if is_batch_first(axes):
        return axes
    alone = of_first_alone(shapes)
    own = {size for shape in shapes[:1] for size in shape[1:]}
    fits = alone is not None and all(axis == 0 or own.issuperset(shape) for shape, axis in zip(shapes, alone, strict=True))
    return alone if alone is not None and fits else (0,) * len(shapes)


def is_batch_first(axes: Axes) -> bool:
    """Return whether each input has an axis of samples, and the first one has its samples first."""
    return axes[:1] == (0,) and None not in axes


def of_first_alone(shapes: Sequence[Sequence[int]]) -> Axes | None:
    """Return the axes where inputs that begin with the first one's size hold samples, and the others belong to all of these.

    None where another input has that size too, so that it may count the samples there.
    """
    size = next((shape[0] for shape in shapes if shape), None)
    heads = [bool(shape) and shape[0] == size for shape in shapes]
    if any(size in shape for shape, begins in zip(shapes, heads, strict=True) if not begins):
        return None
    return tuple(0 if begins else None for begins in heads)


def rows_alike(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return values of outputs, one for each row of them, in the rows of the first: of one with others the mean in each."""
    return [x if len(x) == len(rows[0]) else np.full(len(rows[0]), x.mean()) for x in rows]


def count_of(arrays: Sequence[np.ndarray], axes: Axes) -> int:
    """Return how many samples inputs hold."""
    return next((array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None), 1)


def cut(arrays: Sequence[np.ndarray], axes: Axes, start: int, stop: int) -> tuple[np.ndarray, ...]:
    """Return some of the samples of inputs."""
    return tuple(
        x if axis is None else x[(*[slice(None)] * axis, slice(start, stop))] for x, axis in zip(arrays, axes, strict=True)
    )


def axis_of(output: np.ndarray, size: int) -> int | None:
    """Return the axis of an output along which ``size`` samples are; of one sample that may be none."""
    return next((axis for axis, n in enumerate(output.shape) if n == size), None if size == 1 else 0)


def samples_first(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Return a batch of an input with its samples along the first axis."""
    return array[None] if axis is None else np.moveaxis(array, axis, 0)


def samples_along(array: np.ndarray, axis: int | None) -> np.ndarray:
    """Return what :func:`samples_first` took: of an input without an axis of samples the only one."""
    return array[0, ...] if axis is None else np.moveaxis(array, 0, axis)
