"""Outliers of a transformer whose float function stays what it was: large channels of its norms, and a stream far from zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def same_function(model: nn.Module, example: Tensor, change: Callable[[nn.Module], None], tolerance: float = 1e-3) -> nn.Module:
    """Return a changed copy of a model; raise AssertionError where its outputs are no longer those of the model.

    ``tolerance`` is relative to the largest output: float32 sums in another order.
    """
    changed = copy.deepcopy(model).eval()
    with torch.no_grad():
        change(changed)
        want, got = model.eval()(example), changed(example)
    assert (got - want).abs().max() <= tolerance * want.abs().max(), "the float function has changed"
    return changed


def raise_channels(norm: nn.LayerNorm, readers: Sequence[nn.Linear], channels: int, factor: float, seed: int = 0) -> None:
    """Multiply some channels of a norm by a factor, and divide by it the weights that read them."""
    chosen = torch.randperm(len(norm.weight), generator=torch.Generator().manual_seed(seed))[:channels]
    norm.weight[chosen] *= factor
    norm.bias[chosen] *= factor
    for layer in readers:
        layer.weight[:, chosen] /= factor


def raise_all_channels(model: nn.Module, channels: int = 4, factor: float = 256.0) -> None:
    """Raise channels of every norm of a ViT: see :func:`raise_channels`."""
    for seed, layer in enumerate(model.layers):
        raise_channels(layer.norm1, [layer.attention.qkv], channels, factor, 2 * seed)
        raise_channels(layer.norm2, [layer.mlp[0]], channels, factor, 2 * seed + 1)
    raise_channels(model.norm, [model.head], channels, factor, 99)


def lift_stream(model: nn.Module, by: float = 300.0) -> None:
    """Add a number to every channel of a ViT's residual stream, where it starts: a LayerNorm takes no notice of it."""
    model.position += by
