"""Sums and paddings over any axes, and poolings, written in forms that the runtimes' integer kernels take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from .match import for_axes, padding_of
from .rewriter import Rewrite, Rewriter, given, padded, reshape, sizes_of

aten = torch.ops.aten


def _sum(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a sum as the mean times the number of its terms."""
    axes, keep, dtype = given(n, None, False, None)
    sizes = sizes_of(n.args[0])
    axes = [a % (len(sizes) + 1) for a in axes or ()]
    if not sizes or not axes or 0 in axes or dtype is not None:
        return None
    mean = w.call(n, aten.mean.dim, n.args[0], axes, keep)
    return w.call(n, aten.mul.Tensor, mean, math.prod(sizes[a - 1] for a in axes))


def _pad(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a padding of other axes than an image's last two: one axis after the other becomes the third of four."""
    x, (amounts, value, mode) = n.args[0], padding_of(n)
    sizes = sizes_of(x)
    of_image = len(sizes) in (2, 3) and not any(amounts[2 * len(sizes) - 2 :])  # or of a signal
    if not sizes or mode != "constant" or value or min(amounts) < 0 or of_image:
        return None
    sides = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    sides = [(0, 0)] * (len(sizes) + 1 - len(sides)) + sides
    if any(sides[0]):
        return None
    for axis, both in enumerate(sides[1:]):
        if any(both):
            image = reshape(w, n, x, [math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])])
            longer = padded(w, n, image, [0, 0, *both])
            sizes[axis] += sum(both)
            x = reshape(w, n, longer, sizes)
    return x


def adaptive_max(w: Rewriter, n: Any, source: Any) -> fx.Node | None:
    """Write an adaptive max pooling as a maximum over axes, as a max pooling, or as the maxima of windows of several sizes."""
    x, size = source.args[:2]
    axes = range(2, len(sizes_of(x)) + 1)
    if all(s == 1 for s in size) and len(axes) == len(size):
        return w.call(n, aten.amax.default, x, list(axes), True)
    kernel = windows(x, size)
    if not kernel:
        return _maxima(w, n, x, size) if len(axes) == len(size) else None
    pool = aten.max_pool1d.default if len(kernel) == 1 else aten.max_pool2d.default
    return w.call(n, pool, x, kernel, kernel)


def _maxima(w: Rewriter, n: Any, x: Any, size: Any) -> fx.Node:
    """Write the maxima of windows as those of slices, one axis after the other."""
    for axis, count in enumerate(size, 2):
        have = x.meta["val"].shape[axis]
        ends = [(i * have // count, -(-(i + 1) * have // count)) for i in range(count)]
        parts = [w.call(n, aten.slice.Tensor, x, axis, low, high) for low, high in ends]
        x = w.call(n, aten.cat.default, [w.call(n, aten.amax.default, part, [axis], True) for part in parts], axis)
    made: fx.Node = x
    return made


def padded_maxima(
    x: torch.Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], padding: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Return the maxima of windows over a signal or an image, whose padding before and after each axis never wins."""
    around = F.pad(x, [side for sides in padding[::-1] for side in sides], value=-math.inf)
    return F.max_pool1d(around, kernel, strides) if len(kernel) == 1 else F.max_pool2d(around, kernel, strides)


def _max_pool(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a pooling of what is padded with minus infinity, as files have it that pad unevenly, as one that pads."""
    x, axes = n.args[0], len(n.meta["val"].shape) - 2
    kernel, strides, padding, dilation, ceil = given(n, None, (), 0, 1, False)
    amounts = _beside_maxima(x, axes)
    window = for_axes(kernel, axes)
    if not amounts or any(for_axes(padding, axes)) or set(for_axes(dilation, axes)) != {1} or ceil:
        return None
    if any(max(sides) >= size for sides, size in zip(amounts, window, strict=True)):
        return None  # a window would hold nothing else
    return w.known(n, lambda: n.meta["val"], padded_maxima, x.args[0], window, for_axes(strides or kernel, axes), amounts)


def _beside_maxima(n: Any, axes: int) -> list[tuple[int, int]]:
    """Return how far a node pads each of the last axes with minus infinity; empty where it does something else."""
    if axes < 1 or getattr(n, "target", None) not in (aten.pad.default, aten.constant_pad_nd.default):
        return []
    amounts, value, mode = padding_of(n)
    if mode != "constant" or value != -math.inf or not all(isinstance(a, int) and a >= 0 for a in amounts):
        return []
    sides = [*zip(amounts[::2], amounts[1::2], strict=True)]
    beside = [*sides[:axes], *[(0, 0)] * (axes - len(sides))][::-1]
    return [] if any(map(any, sides[axes:])) else beside


def windows(x: Any, size: Any) -> list[int]:
    """Return the size of an adaptive pooling's windows; empty where they have several sizes, or an axis is not fixed."""
    have = list(x.meta["val"].shape)[-len(size) :]
    if not all(isinstance(n, int) and n % s == 0 for n, s in zip(have, size, strict=True)):
        return []
    return [n // s for n, s in zip(have, size, strict=True)]


def _avg_pool(w: Rewriter, n: Any) -> fx.Node | None:
    """Write an average pooling that counts its padding as one without padding, of the padded image or signal."""
    kernel, stride, padding, ceil, include, divisor = [*given(n, None, None, 0, False, True, None), None][:6]
    axes = len(n.meta["val"].shape) - 2
    if axes < 1 or not include or divisor:
        return None
    pads = for_axes(padding, axes)
    if not any(pads) or (ceil and not _ends_alike(n, for_axes(kernel, axes), for_axes(stride or kernel, axes), pads)):
        return None
    around = padded(w, n, n.args[0], [side for pad in pads[::-1] for side in (pad, pad)])
    return w.call(n, n.target, around, kernel, stride or kernel, 0, ceil)


def _ends_alike(n: Any, kernel: tuple[int, ...], strides: tuple[int, ...], pads: tuple[int, ...]) -> bool:
    """Return whether a pooling that rounds up has as many windows where the padding is part of the image.

    A window that begins in the padding at the end is left out, one that begins in the image is not.
    """
    before, after = (node.meta["val"].shape[2:] for node in (n.args[0], n))
    return all(
        isinstance(size, int) and count == -(-(size + 2 * pad - k) // stride) + 1
        for size, count, k, stride, pad in zip(before, after, kernel, strides, pads, strict=True)
    )


REDUCTIONS: dict[Any, Rewrite] = {
    aten.sum.dim_IntList: _sum,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.max_pool1d.default: _max_pool,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool1d.default: _avg_pool,
    aten.avg_pool2d.default: _avg_pool,
}
