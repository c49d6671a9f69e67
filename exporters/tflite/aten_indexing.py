"""Core ATen operators that read, write or order elements by their indices, in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from .aten_shapes import Size, Tensor, slice_


def index_select(x: Tensor, dim: int, indices: Tensor) -> Tensor:
    """Choose elements of an axis by a tensor of indices."""
    return tf.gather(x, _counted(indices, _size(x, dim)), axis=dim)


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Choose elements by tensors of indices, each for one axis, which broadcast against each other.

    The axes of the indices stand where the first chosen axis stood, or first where the chosen axes are not neighbours.
    """
    axes = [axis for axis, given in enumerate(indices) if given is not None]
    flat, number, first = _merged(x, axes, [indices[axis] for axis in axes])
    return tf.gather(flat, number, axis=first)


def _merged(x: Tensor, axes: list[int], chosen: list[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Return a tensor with several axes merged into one, the indices along that axis, and the axis."""
    if len(axes) == 1:
        return x, _counted(chosen[0], _size(x, axes[0])), axes[0]
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    others = [axis for axis in range(len(x.shape)) if axis not in axes]
    order = [*others[:first], *axes, *others[first:]]
    x = x if order == list(range(len(order))) else tf.transpose(x, order)
    sizes = [_size(x, first + i) for i in range(len(axes))]
    number = _counted(chosen[0], sizes[0])
    for given, size in zip(chosen[1:], sizes[1:], strict=True):
        number = number * size + _counted(given, size)
    merged = math.prod(sizes) if all(isinstance(n, int) for n in sizes) else -1
    return tf.reshape(x, _shape(x, {first: merged}, dropped=range(first + 1, first + len(axes)))), number, first


def _size(x: Tensor, dim: int) -> Size:
    return tf.shape(x)[dim] if x.shape[dim] is None else x.shape[dim]


def _shape(x: Tensor, changed: dict[int, Size], dropped: Sequence[int] = ()) -> list[Size]:
    """Return the sizes of a tensor, some of them changed, some left out."""
    return [changed.get(i, _size(x, i)) for i in range(len(x.shape)) if i not in dropped]


def _counted(indices: Tensor, size: Size) -> Tensor:
    """Return indices as int32, the negative ones counted from the end."""
    indices = tf.cast(indices, tf.int32)
    return tf.where(indices < 0, indices + size, indices)


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """Write, or add, values at tensors of indices, each for one axis."""
    axes = [axis for axis, given in enumerate(indices) if given is not None]
    flat, number, axis = _merged(x, axes, [indices[axis] for axis in axes])
    shape = [*_shape(flat, {})[:axis], *number.shape, *_shape(flat, {})[axis + 1 :]]
    written = tf.reshape(tf.broadcast_to(tf.cast(values, x.dtype), shape), _shape(flat, {axis: math.prod(number.shape)}))
    hits = tf.one_hot(tf.reshape(number, [-1]), _size(flat, axis), dtype=tf.float32)
    return tf.reshape(_placed(flat, axis, written, hits, accumulate), _shape(x, {}))


def _placed(x: Tensor, axis: int, values: Tensor, hits: Tensor, accumulate: bool) -> Tensor:
    """Write values at places of an axis: ``hits`` is ``(value, place)``, 1 where a value belongs to a place."""
    order = [i for i in range(len(x.shape)) if i != axis] + [axis]
    last = tf.matmul(tf.transpose(tf.cast(values, tf.float32), order), hits)
    put = tf.cast(tf.transpose(last, list(np.argsort(order))), x.dtype)
    if accumulate:
        return x + put
    written = tf.reshape(tf.reduce_max(hits, 0) > 0, [-1, *[1] * (len(x.shape) - 1 - axis)])
    return tf.where(written, put, x)


def gather(x: Tensor, dim: int, indices: Tensor, sparse_grad: bool = False) -> Tensor:
    """Choose one element of an axis for each index."""
    dim %= max(len(x.shape), 1)
    cut = tuple(slice(None) if i == dim else slice(0, n) for i, n in enumerate(indices.shape))
    x, indices = _last(x[cut], dim), _last(_counted(indices, _size(x, dim)), dim)
    chosen = tf.gather(tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(indices, [-1, indices.shape[-1]]), batch_dims=1)
    return _last(tf.reshape(chosen, _shape(indices, {})), dim, back=True)


def _last(x: Tensor, dim: int, back: bool = False) -> Tensor:
    """Move an axis to the end, or from there back to its place."""
    order = [i for i in range(len(x.shape)) if i != dim % len(x.shape)] + [dim % len(x.shape)]
    return tf.transpose(x, list(np.argsort(order)) if back else order)


def scatter(added: bool) -> Callable[..., Tensor]:
    """Return a function that writes, or adds, elements of ``source``, or one number, at indices along an axis."""

    def apply(x: Tensor, dim: int, indices: Tensor, source: Tensor | float, **_: object) -> Tensor:
        source = tf.cast(source, x.dtype)
        source = tf.broadcast_to(source, tf.shape(indices)) if not len(source.shape) else source
        hits, values, placed = _sent(x, dim, indices, tf.cast(source, tf.float32))
        put = tf.cast(placed(tf.reduce_sum(hits * values, -2)), x.dtype)
        return x + put if added else tf.where(placed(tf.reduce_max(hits, -2)) > 0, put, x)

    return apply


def scatter_reduce(x: Tensor, dim: int, indices: Tensor, source: Tensor, reduce: str, include_self: bool = True) -> Tensor:
    """Reduce the elements of ``source`` that indices along an axis send to one place, with what is there or without.

    A mean is taken apart when the model is captured.
    """
    join, over, neutral = {
        "sum": (tf.add, tf.reduce_sum, 0), "prod": (tf.multiply, tf.reduce_prod, 1),
        "amax": (tf.maximum, tf.reduce_max, x.dtype.min), "amin": (tf.minimum, tf.reduce_min, x.dtype.max),
    }[reduce]  # fmt: skip
    hits, values, placed = _sent(x, dim, indices, source)
    count = tf.cast(placed(tf.reduce_sum(hits, -2)), x.dtype)
    found = placed(over(tf.where(hits > 0, values, tf.cast(neutral, x.dtype)), -2))
    found = join(found, x) if include_self else found
    return tf.where(count > 0, found, x)


def _sent(x: Tensor, dim: int, indices: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Return what indices along an axis send to the places of that axis in ``x``.

    Returns:
        1 where an element is sent to a place, as ``(..., element, place)``; the elements, as ``(..., element, 1)``; and a
        function that lays a tensor ``(..., place)`` out as ``x``, with zeros where ``indices`` does not reach.
    """
    dim %= len(x.shape)
    source = source[tuple(slice(0, n) for n in indices.shape)]
    hits = tf.one_hot(_last(_counted(indices, size := _size(x, dim)), dim), size, dtype=tf.float32)
    ends = [(0, 0 if have is None or i == dim else x.shape[i] - have) for i, have in enumerate(indices.shape)]
    return hits, _last(source, dim)[..., None], lambda values: tf.pad(_last(values, dim, back=True), ends)


def slice_scatter(x: Tensor, source: Tensor, dim: int = 0, start: Size = None, end: Size = None, step: int = 1) -> Tensor:
    """Write a tensor over a range of an axis."""
    dim %= len(x.shape)
    if x.shape[dim] is None:
        if start in (None, 0) and (end is None or not isinstance(end, int) or end > 2**31 - 1) and step == 1:
            return source
        raise NotImplementedError("writing over a part of the batch")
    places = np.arange(x.shape[dim])
    written = places[slice(start, end, step)]
    if len(written) == len(places):
        return source
    if step == 1:
        low, high = int(written[0]), int(written[-1]) + 1
        return tf.concat([slice_(x, dim, 0, low), source, slice_(x, dim, high, len(places))], dim)
    places[written] = len(places) + np.arange(len(written))
    return tf.gather(tf.concat([x, source], dim), places.astype(np.int32), axis=dim)


def select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    """Write a tensor over one element of an axis."""
    index = index % x.shape[dim] if x.shape[dim] is not None else index
    return slice_scatter(x, tf.expand_dims(source, dim), dim, index, index + 1)


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> list[Tensor]:
    """Return the extreme elements of an axis, in order, and their indices."""
    dim %= len(x.shape)
    moved = _last(x, dim)
    values, indices = tf.math.top_k(moved if largest else -moved, k)
    values = values if largest else -values
    return [_last(values, dim, back=True), tf.cast(_last(indices, dim, back=True), tf.int64)]


def sort(x: Tensor, dim: int = -1, descending: bool = False) -> list[Tensor]:
    """Return the elements of an axis in order, equal ones as they stood, and their indices."""
    return topk(x, x.shape[dim], dim, descending)


def stable_sort(x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> list[Tensor]:
    """Return :func:`sort`, which is stable in any case."""
    return sort(x, dim, descending)


def kth_value(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> list[Tensor]:
    """Return the k-th smallest element of an axis, and its index."""
    return [slice_(y, dim, k - 1, k) if keepdim else tf.gather(y, k - 1, axis=dim) for y in topk(x, k, dim, False)]


def median(x: Tensor, dim: int = -1, keepdim: bool = False) -> list[Tensor]:
    """Return the lower median of an axis, and its index."""
    return kth_value(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def cumulative(reduction: Callable[..., Tensor], neutral: float) -> Callable[..., Tensor]:
    """Return the reduction of the elements up to each one, along an axis."""

    def apply(x: Tensor, dim: int, **_: object) -> Tensor:
        moved = _last(x, dim)
        before = np.tril(np.ones([x.shape[dim]] * 2, bool))
        return _last(reduction(tf.where(before, moved[..., None, :], tf.cast(neutral, x.dtype)), -1), dim, back=True)

    return apply


def windows(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Return the windows of an axis; their elements lie along a new last axis."""
    starts = np.arange(0, x.shape[dim] - size + 1, step)
    dim %= len(x.shape)
    y = tf.gather(x, (starts[:, None] + np.arange(size)).astype(np.int32), axis=dim)
    return _last(y, dim + 1)


def diagonal(x: Tensor, offset: int = 0, a: int = 0, b: int = 1) -> Tensor:
    """Return the diagonal of two axes as a new last axis."""
    a, b = a % len(x.shape), b % len(x.shape)
    order = [i for i in range(len(x.shape)) if i not in (a, b)] + [a, b]
    rows, columns = x.shape[a], x.shape[b]
    number = [i * columns + i + offset for i in range(rows) if 0 <= i + offset < columns]
    moved = tf.transpose(x, order)
    flat = tf.reshape(moved, _shape(moved, {len(order) - 2: rows * columns}, dropped=[len(order) - 1]))
    return tf.gather(flat, np.array(number, np.int32), axis=len(order) - 2)


def bucketize(x: Tensor, bounds: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Return how many bounds lie below each element, or at it too."""
    below = (x[..., None] >= bounds) if right else (x[..., None] > bounds)
    return tf.reduce_sum(tf.cast(below, tf.int32 if out_int32 else tf.int64), -1)
