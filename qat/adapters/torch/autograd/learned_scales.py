"""Learned scales: the scale of a weight and the range of an activation as parameters, trained with everything else.

Sources: Esser et al. 2020, "Learned Step Size Quantization" (LSQ), section 2, for the gradients and their factor; Bhalgat et al.
2020, "LSQ+", for activations that are not symmetric: both ends of the range are learned, scale and zero point follow from them.

On the integer grid the gradient ``g`` that reaches a node is that of its integers ``q``, in which its readers took the scale
``s`` for a constant. The real value is ``s q(v)``, ``v`` the unrounded grid value, so ``dL/ds = sum(g (q - v)) / s`` where ``v``
lies within the limits and ``sum(g q) / s`` where it is clipped. The node that rounds knows all of these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .by_operators import Limits, where_within


class _QuantizeWeight(torch.autograd.Function):
    """``clamp(round(w / s), -qmax, qmax)``; ``s`` of shape (channels,) along axis 0, or (1,)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, scale: Tensor, qmax: int) -> Tensor:
        scale = scale.view(-1, *[1] * (weight.ndim - 1))
        v = weight / scale
        q = v.round().clamp_(-qmax, qmax)
        ctx.save_for_backward(v, q, scale)
        ctx.qmax, ctx.steps = float(qmax), len(step)
        return q

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, q, scale = ctx.saved_tensors
        within = where_within(grad, v, (-ctx.qmax, ctx.qmax))
        slopes = (grad * q - within * v) / scale
        slopes = slopes.flatten(1).sum(1) if ctx.steps > 1 else slopes.sum().view(1)
        return within / scale, slopes / (v.numel() / ctx.steps * ctx.qmax) ** 0.5, None, None


class _Requantize(torch.autograd.Function):
    """``clamp(round(v), lo, hi)``, with the gradients of the range's two ends where they limit the output (``ends``)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, range_: Tensor, scale: float, grid: Limits, limits: Limits) -> Tensor:
        y = v.round().clamp_(*limits)
        ctx.save_for_backward(v, y)
        ctx.levels = grid[1] - grid[0]
        ctx.scale, ctx.limits = scale, limits
        ctx.ends = (limits[0] == grid[0] and limits[0] < 0.0, limits[1] == grid[1])
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, y = ctx.saved_tensors
        (lo, hi), (low_end, high_end) = ctx.limits, ctx.ends
        within = where_within(grad, v, ctx.limits)
        clipped = grad - within
        # A clipped value has one of two integers: the two sums follow from sum(g) and sum(g y).
        total = clipped.sum()
        above = (torch.dot(clipped.flatten(), y.flatten()) - lo * total) / (hi - lo)
        rounding = torch.dot(within.flatten(), (y - v).flatten()) / ctx.levels
        ends = torch.stack([low_end * (total - above - rounding), high_end * above + rounding])
        # LSQ's factor is for the scale, which is the range over the levels. Times levels^2, the range changes as it does there.
        factor = ctx.levels**2 / (v[0].numel() * ctx.levels) ** 0.5
        return within, ends * (factor / ctx.scale), None, None, None


def requantize(v: Tensor, range_: Tensor, scale: float, grid: Limits, limits: Limits) -> Tensor:
    """Return ``clamp(round(v), *limits)`` on a grid whose range is learned.

    Args:
        v: unrounded grid values.
        range_: the learned (low, high), which gets a gradient.
        scale: that follows from it.
        grid: the type's limits, less the zero point.
        limits: the same, narrowed by a fused activation.
    """
    y: Tensor = _Requantize.apply(v, range_, scale, grid, limits)
    return y


class _Round(torch.autograd.Function):
    """Rounding with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        return v.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


quantize_weight = _QuantizeWeight.apply
round_through = _Round.apply
