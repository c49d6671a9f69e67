"""Convolutions in which each sample has a kernel of its own: dynamic convolutions, and the modulated ones of generators.

PyTorch has them as one convolution of as many groups as samples. No format holds a number of groups that is open; a product of
each sample's windows and its kernel computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .attention import product
from .match import for_axes
from .rewriter import Rewrite, Rewriter, given, padded

aten = torch.ops.aten


def _conv(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a convolution whose groups are the samples as a product of windows and kernels."""
    x, (weight, bias, stride, padding, dilation, groups) = n.args[0], given(n, None, None, 1, 0, 1, 1)
    if not isinstance(groups, fx.Node) or not isinstance(weight, fx.Node):
        return None
    samples, (channels, *window) = groups.meta["val"], weight.meta["val"].shape[1:]
    outputs = weight.meta["val"].shape[0] // samples
    height, width = x.meta["val"].shape[2:]
    sizes = [channels, *window, outputs, height, width]
    if x.meta["val"].shape[0] != 1 or not all(isinstance(size, int) or size.node.expr.is_number for size in sizes):
        return None
    channels, *window, outputs, height, width = map(int, sizes)
    down, across = for_axes(padding, 2)

    def row(source: fx.Node, *shape: int) -> fx.Node:
        value = source.meta["val"]
        return w.known(n, lambda: value.new_empty((samples, *shape)), aten.reshape.default, source, [-1, *shape])

    image = row(x, channels, height, width)
    if down or across:
        image = padded(w, n, image, [across, across, down, down])
    rows, columns = n.meta["val"].shape[2:]
    terms, places = channels * window[0] * window[1], int(rows) * int(columns)
    value = image.meta["val"]
    windows = w.known(
        n, lambda: value.new_empty((samples, terms, places)), aten.im2col.default, image, window, for_axes(dilation, 2), [0, 0],
        for_axes(stride, 2),
    )  # fmt: skip
    y = w.call(n, product, row(weight, outputs, terms), windows, False)
    if bias is not None:
        y = w.call(n, aten.add.Tensor, y, row(bias, outputs, 1))
    made = n.meta["val"]
    return w.known(n, lambda: made, aten.reshape.default, y, [1, -1, int(rows), int(columns)])


SAMPLE_KERNELS: dict[Any, Rewrite] = {aten.conv2d.default: _conv}
