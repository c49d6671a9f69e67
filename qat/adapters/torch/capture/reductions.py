"""Reductions and paddings over any axes, written over the axes of an image: the runtimes' integer kernels take no others.

Axes are permuted and merged until those to be reduced are the last two of four. The batch stays the first axis.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from .rewriter import Rewrite, Rewriter, given, padded, rank_of, reshape, sizes_of

aten = torch.ops.aten


def _mean(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a mean over other axes than an image's: those axes become the last two of four, all other ones the second."""
    x, (axes, keep, dtype) = n.args[0], given(n, None, False, None)
    rank = rank_of(x)
    axes = sorted(a % rank for a in axes or ()) if rank > 1 else []
    if not axes or axes[0] == 0 or dtype is not None or (rank, axes) in ((4, [2, 3]), (3, [2])):
        return None
    kept = [a for a in range(1, rank) if a not in axes]
    if len(kept) > 1 and not sizes_of(x):  # merged axes of unknown sizes could not be separated again
        return None
    order = [0, *kept, *axes]
    if order != sorted(order):
        x = w.call(n, aten.permute.default, x, order)
    for count, place in ((len(axes), len(kept) + 1), (len(kept), 1)):
        if count > 1:
            x = w.call(n, aten.flatten.using_ints, x, place, place + count - 1)
    x = x if kept else w.call(n, aten.unsqueeze.default, x, 1)
    mean = w.call(n, aten.mean.dim, w.call(n, aten.unsqueeze.default, x, 3), [2, 3])
    if sizes_of(n) or len(n.meta["val"].shape) == 1:
        return reshape(w, n, mean, list(n.meta["val"].shape[1:]))
    for axis in axes if keep else ():
        mean = w.call(n, aten.unsqueeze.default, mean, axis)
    return mean


def _sum(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a sum as the mean times the number of its terms."""
    axes, keep, dtype = given(n, None, False, None)
    sizes = sizes_of(n.args[0])
    axes = [a % (len(sizes) + 1) for a in axes or ()]
    if not sizes or not axes or 0 in axes or dtype is not None:
        return None
    mean = w.call(n, aten.mean.dim, n.args[0], axes, keep)
    replaced = _mean(w, mean)
    if replaced is not None:
        w.graph.erase_node(mean)
    return w.call(n, aten.mul.Tensor, replaced or mean, math.prod(sizes[a - 1] for a in axes))


def _pad(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a padding of other axes than an image's last two: one axis after the other becomes the third of four."""
    x, (amounts, *rest) = n.args[0], given(n, None, "constant", None)
    if n.target is aten.constant_pad_nd.default:
        (amounts, value), mode = given(n, None, 0), "constant"
    else:
        mode, value = rest
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
    """Write an adaptive max pooling with windows of one size as a maximum over axes, or as a max pooling."""
    x, size = source.args[:2]
    axes = range(2, len(sizes_of(x)) + 1)
    if all(s == 1 for s in size) and len(axes) == len(size):
        return w.call(n, aten.amax.default, x, list(axes), True)
    kernel = windows(x, size)
    pool = aten.max_pool1d.default if len(kernel) == 1 else aten.max_pool2d.default
    return w.call(n, pool, x, kernel, kernel) if kernel else None


def windows(x: Any, size: Any) -> list[int]:
    """Return the size of an adaptive pooling's windows; empty where they have several sizes, or an axis is not fixed."""
    have = list(x.meta["val"].shape)[-len(size) :]
    if not all(isinstance(n, int) and n % s == 0 for n, s in zip(have, size, strict=True)):
        return []
    return [n // s for n, s in zip(have, size, strict=True)]


def _avg_pool(w: Rewriter, n: Any) -> fx.Node | None:
    """Write an average pooling that counts its padding as one without padding, of the padded image."""
    kernel, stride, padding, ceil, include, divisor = given(n, None, None, 0, False, True, None)
    pads = [padding] if isinstance(padding, int) else list(padding)
    if not any(pads) or ceil or not include or divisor or len(n.meta["val"].shape) != 4:
        return None
    (rows, columns) = (pads * 2)[:2]
    return w.call(n, n.target, padded(w, n, n.args[0], [columns, columns, rows, rows]), kernel, stride or kernel)


REDUCTIONS: dict[Any, Rewrite] = {
    aten.mean.dim: _mean,
    aten.sum.dim_IntList: _sum,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.avg_pool2d.default: _avg_pool,
}
