"""The geometry of windows."""

from __future__ import annotations

from collections.abc import Sequence


def same_padding(size: Sequence[int | None], window: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    """Return TensorFlow's SAME padding for each axis of an image; None where the size is not fixed."""
    both = []
    for n, k, s in zip(size, window, strides, strict=True):
        if n is None:
            return None
        total = max((-(-n // s) - 1) * s + k - n, 0)
        both.append((total // 2, total - total // 2))
    return tuple(both)


def within_half(kernel: Sequence[int], padding: Sequence[tuple[int, int]]) -> bool:
    """Return whether every window is one of those of SAME padding with strides of 1, which begins at every element's place."""
    return all(first <= (k - 1) // 2 and last <= k // 2 for k, (first, last) in zip(kernel, padding, strict=True))
