"""Linear resizing of signals and volumes, as that of images: the kernels of both formats take images."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .rewriter import Rewrite, Rewriter, given, reshape, sizes_of

aten = torch.ops.aten


def _linear1d(w: Rewriter, n: Any) -> fx.Node | None:
    """Resize a signal as an image of one row."""
    x, (size, aligned, factors) = n.args[0], given(n, None, False, None)
    if not sizes_of(x) or not sizes_of(n):
        return None
    (channels, length), (_, new) = sizes_of(x), sizes_of(n)
    image = reshape(w, n, x, [channels, 1, length])
    y = _resized(w, n, image, [channels, 1, new], size and [1, *size], aligned, factors and [1.0, *factors])
    return reshape(w, n, y, sizes_of(n))


def _trilinear3d(w: Rewriter, n: Any) -> fx.Node | None:
    """Resize the planes of a volume as images, then its depth as the rows of one image."""
    x, (size, aligned, factors) = n.args[0], given(n, None, False, None)
    if not sizes_of(x) or not sizes_of(n):
        return None
    (channels, depth, *plane), (_, deep, *new) = sizes_of(x), sizes_of(n)
    planes = reshape(w, n, x, [channels * depth, *plane])
    y = _resized(w, n, planes, [channels * depth, *new], size and size[1:], aligned, factors and factors[1:])
    if deep != depth:
        spots = new[0] * new[1]
        rows = reshape(w, n, y, [channels, depth, spots])
        y = _resized(w, n, rows, [channels, deep, spots], size and [size[0], spots], aligned, factors and [factors[0], 1.0])
    return reshape(w, n, y, sizes_of(n))


def _resized(w: Rewriter, n: Any, image: fx.Node, shape: list[int], size: Any, aligned: bool, factors: Any) -> fx.Node:
    """Resize images to ``shape``, which is known: computed, it would fix the size of the batch."""
    args = image, size, aligned, None if size else factors
    return w.known(n, lambda: n.meta["val"].new_empty(n.meta["val"].shape[0], *shape), aten.upsample_bilinear2d.vec, *args)


RESIZING: dict[Any, Rewrite] = {
    aten.upsample_linear1d.vec: _linear1d,
    aten.upsample_trilinear3d.vec: _trilinear3d,
}
