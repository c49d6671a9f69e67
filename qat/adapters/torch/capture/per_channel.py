"""Operators with one parameter a channel, written as depthwise convolutions of 1x1: the parameter is trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from .rewriter import Rewrite, Rewriter, rank_of, reshape, sizes_of

aten = torch.ops.aten


def scaled(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each channel of an image by a factor of its own, [channels], the parameter as the user has it."""
    return F.conv2d(x, factors.view(-1, 1, 1, 1), groups=len(factors))


def _on_images(w: Rewriter, n: fx.Node, x: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """Apply an operator of images to a tensor of any rank with channels second: the axes after the channels are merged."""
    if rank_of(x) == 4:  # an image, whose sizes may be free
        return w.known(n, x.meta["val"].clone, target, x, *args, **kwargs)
    sizes = sizes_of(x)
    image = reshape(w, n, x, [sizes[0], sizes[1] if len(sizes) == 2 else 1, 1])
    value = image.meta["val"]
    made = w.known(n, lambda: value.clone(), target, image, *args, **kwargs)
    return reshape(w, n, made, sizes)


def _prelu(w: Rewriter, n: Any) -> fx.Node | None:
    """Write PReLU as ``relu(x) + a min(x, 0)``; one with a single slope becomes a leaky ReLU in ``rules.py``."""
    x, slopes = n.args
    if slopes.meta["val"].numel() == 1 or not (rank_of(x) == 4 or 1 <= len(sizes_of(x)) <= 2):
        return None
    below = w.call(n, aten.clamp_max.default, x, 0)
    return w.call(n, aten.add.Tensor, w.call(n, aten.relu.default, x), _on_images(w, n, below, scaled, slopes))


def _batch_norm(w: Rewriter, n: Any) -> fx.Node | None:
    """Write a BatchNorm of rank 2 as one of images of one pixel, unless it follows a fully connected layer of its own."""
    x = n.args[0]
    if len(sizes_of(x)) != 1 or (x.target is aten.linear.default and _is_of(x.args[1], n)):
        return None
    return _on_images(w, n, x, n.target, *n.args[1:], **n.kwargs)


def _is_of(weight: fx.Node, n: fx.Node) -> bool:
    """Return whether every call of a fully connected layer is read by one BatchNorm alone, always the same."""
    readers = [reader for call in weight.users for reader in (call.users or [call])]
    return all(reader.target is n.target and reader.args[1:] == n.args[1:] for reader in readers)


PER_CHANNEL: dict[Any, Rewrite] = {aten.prelu.default: _prelu, aten.batch_norm.default: _batch_norm}
