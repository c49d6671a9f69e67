"""Core ATen operators that change the shape of a tensor or choose among its elements, in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from qat.graph.decompose.transposes import transposed

#: A tensor of TensorFlow, which has no types.
Tensor = Any
#: A size, an index or a bound: a number, or a tensor where it is not fixed.
Size = Any


def view(x: Tensor, shape: Sequence[Size]) -> Tensor:
    """Reshape. The batch, the only size that is not fixed, follows from the others."""
    return tf.reshape(x, [n if isinstance(n, int) else -1 for n in shape])


def expand(x: Tensor, shape: Sequence[Size]) -> Tensor:
    """Repeat along axes of size 1. The only size that is no number is the batch."""
    rank = len(shape) - len(x.shape)
    have = [1] * rank + list(x.shape)
    x = tf.reshape(x, [1 if n == 1 else -1 if n is None else n for n in have]) if rank else x
    repeats = [n if isinstance(n, int) and n != -1 and have[i] == 1 else 1 for i, n in enumerate(shape)]
    if have[0] == 1 and not isinstance(shape[0], int):
        repeats[0] = shape[0]
    return tf.tile(x, repeats) if any(not isinstance(n, int) or n != 1 for n in repeats) else x


def repeat(x: Tensor, repeats: Sequence[Size]) -> Tensor:
    """Repeat along each axis; a tensor of fewer axes than numbers gets axes of size 1 in front."""
    return tf.tile(x[(*[tf.newaxis] * (len(repeats) - len(x.shape)), ...)], repeats)


def slice_(x: Tensor, dim: int = 0, start: Size = None, end: Size = None, step: int = 1) -> Tensor:
    """Cut a range out of one axis."""
    end = None if isinstance(end, int) and end > 2**31 - 1 else end
    return x[(slice(None),) * (dim % len(x.shape)) + (slice(start, end, step),)]


def select(x: Tensor, dim: int, index: int) -> Tensor:
    """Choose one element of an axis, which disappears."""
    return x[(slice(None),) * (dim % len(x.shape)) + (index,)]


def permute(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Reorder the axes; of more than six in tensors of fewer, since a kernel takes no more."""
    return transposed(x, axes, 6, tf.reshape, tf.transpose)


def swap(x: Tensor, a: int, b: int) -> Tensor:
    """Swap two axes."""
    axes = list(range(len(x.shape)))
    axes[a], axes[b] = axes[b], axes[a]
    return permute(x, axes)


def squeeze(x: Tensor, dims: int | Sequence[int]) -> Tensor:
    """Remove those of the axes that have size 1."""
    axes = [d for d in ([dims] if isinstance(dims, int) else dims) if x.shape[d] == 1]
    return tf.squeeze(x, axes) if axes else x  # of no axes TensorFlow would take all


def pad(x: Tensor, amounts: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad, or cut where an amount is negative. ``amounts`` begins with the last axis."""
    both = [(0, 0)] * (len(x.shape) - len(amounts) // 2) + list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    cut = tuple(slice(max(-low, 0), -max(-high, 0) or None) for low, high in both)
    return tf.pad(x[cut], [(max(low, 0), max(high, 0)) for low, high in both], constant_values=tf.cast(value, x.dtype))


def split(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    """Split an axis into parts of the given sizes."""
    return list(tf.split(x, sizes, dim))


def numbers(start: Size, end: Size, step: Size = 1, dtype: str | None = None, **_: object) -> Tensor:
    """Return the numbers from ``start`` to before ``end``: integers where all three are."""
    fractions = any(isinstance(n, float) for n in (start, end, step))
    return tf.cast(tf.range(start, end, step), dtype or ("float32" if fractions else "int64"))


def ratio(a: Size, b: Size) -> Size:
    """Divide sizes, in the only numbers with fractions that TFLite divides."""
    return tf.cast(a, tf.float32) / tf.cast(b, tf.float32)


def whole(rounded: Callable[[Tensor], Tensor]) -> Callable[[Size], Size]:
    """Return a function that makes a size of a number."""
    return lambda x: tf.cast(rounded(tf.cast(x, tf.float32)), tf.int32)


#: What computes sizes, by its name, where it is no operator of Python or computes in other numbers.
OF_SIZES: dict[str, Callable[..., Size]] = {
    "truediv": ratio,
    "trunc": whole(lambda x: x),
    "floor": whole(tf.floor),
    "ceil": whole(tf.math.ceil),
    "sym_float": lambda x: tf.cast(x, tf.float32),
}
