"""Core ATen operators that compute images from others by weights of each axis or by coordinates, in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf
import torch

from .aten_shapes import Tensor

#: Returns PyTorch's own result for images of one row; the number is 0 for the rows of the images to come, 1 for their columns.
Resample = Callable[[torch.Tensor, int], torch.Tensor]


def by_axis(x: Tensor, resample: Resample) -> Tensor:
    """Apply a linear function of images that treats their axes one after the other.

    PyTorch tells the matrix of an axis: the function of the unit vectors.
    """
    for axis in (1, 0):
        unit = torch.eye(x.shape[axis + 2], dtype=torch.float64)[:, None, None]
        matrix = tf.constant(resample(unit, axis)[:, 0, 0].float().numpy())
        x = tf.matmul(x, matrix) if axis == 1 else tf.matmul(tf.transpose(matrix), x)
    return x


def adaptive_avg_pool(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the averages of windows of which the sizes may differ."""
    return by_axis(x, lambda unit, axis: torch.nn.functional.adaptive_avg_pool2d(unit, (1, sizes[axis])))


def adaptive_max_pool(x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return the maxima of windows of which the sizes may differ."""
    for axis, size in ((2, sizes[0]), (3, sizes[1])):
        n = x.shape[axis]
        ends = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        parts = [x[:, :, low:high] if axis == 2 else x[..., low:high] for low, high in ends]
        x = tf.concat([tf.reduce_max(part, axis, keepdims=True) for part in parts], axis)
    return [x]


def interpolated(operator: Callable[..., torch.Tensor]) -> Callable[..., Tensor]:
    """Return an operator of PyTorch that scales images, by its weights of each axis."""

    def apply(x: Tensor, sizes: Sequence[int] | None, aligned: bool, scales: Sequence[float] | None = None) -> Tensor:
        def resample(unit: torch.Tensor, axis: int) -> torch.Tensor:
            return operator(unit, [1, sizes[axis]] if sizes else None, aligned, None if not scales else [1.0, scales[axis]])

        return by_axis(x, resample)

    return apply


def interpolated_to_size(operator: Callable[..., torch.Tensor]) -> Callable[..., Tensor]:
    """Return an operator of PyTorch that scales images to sizes, with a factor for each axis where the sizes are rounded."""

    def apply(x: Tensor, sizes: Sequence[int], aligned: bool, *scales: float | None) -> Tensor:
        return by_axis(x, lambda unit, axis: operator(unit, [1, sizes[axis]], aligned, None, scales[axis] if scales else None))

    return apply


def nearest(operator: Callable[..., torch.Tensor]) -> Callable[..., Tensor]:
    """Return an operator of PyTorch that scales images by the nearest element, by the indices that it reads in each axis."""

    def apply(x: Tensor, sizes: Sequence[int] | None, scales: Sequence[float] | None = None) -> Tensor:
        one, given = (1, sizes) if sizes else (1.0, scales)
        assert given is not None
        for axis, amount in ((2, given[0]), (3, given[1])):
            counted = torch.arange(x.shape[axis], dtype=torch.float32)[None, None, None]
            read = operator(counted, [one, amount] if sizes else None, None if sizes else [one, amount]).flatten()
            x = tf.gather(x, read.int().numpy(), axis=axis)
        return x

    return apply


def grid_sample(x: Tensor, grid: Tensor, mode: int = 0, padding: int = 0, aligned: bool = False) -> Tensor:
    """Return images at coordinates from -1 to 1: linear between four elements (mode 0), or the nearest one (mode 1).

    Outside the image lie zeros (padding 0), or the border's values (padding 1).
    """
    if mode not in (0, 1) or padding not in (0, 1):
        raise NotImplementedError("sampling at coordinates by cubic curves, or with reflected borders")
    height, width, channels = x.shape[2], x.shape[3], x.shape[1]
    flat = tf.reshape(tf.transpose(x, [0, 2, 3, 1]), [-1, height * width, channels])
    spots = math.prod(grid.shape[1:3])

    def in_elements(coordinate: Tensor, size: int) -> Tensor:
        place = (coordinate + 1) * ((size - 1) / 2) if aligned else ((coordinate + 1) * size - 1) / 2
        return tf.clip_by_value(place, 0.0, size - 1.0) if padding == 1 else place

    def at(row: Tensor, column: Tensor) -> Tensor:
        inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)
        row, column = tf.clip_by_value(row, 0.0, height - 1.0), tf.clip_by_value(column, 0.0, width - 1.0)
        chosen = tf.gather(flat, tf.cast(row * width + column, tf.int32), batch_dims=1)
        return chosen if padding == 1 else chosen * tf.cast(inside, x.dtype)[..., None]

    columns = in_elements(tf.reshape(grid[..., 0], [-1, spots]), width)
    rows = in_elements(tf.reshape(grid[..., 1], [-1, spots]), height)
    if mode == 1:
        y = at(tf.round(rows), tf.round(columns))
    else:
        top, left = tf.floor(rows), tf.floor(columns)
        down, right = (rows - top)[..., None], (columns - left)[..., None]
        y = (1 - down) * ((1 - right) * at(top, left) + right * at(top, left + 1))
        y += down * ((1 - right) * at(top + 1, left) + right * at(top + 1, left + 1))
    return tf.transpose(tf.reshape(y, [-1, *grid.shape[1:3], channels]), [0, 3, 1, 2])
