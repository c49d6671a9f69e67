"""The arithmetic of dynamic kernels in PyTorch: the activation's grid is chosen as the kernel runs.

:mod:`qat.arithmetic.dynamic` is the reference, has the kernels' names and their sources. Gradients are straight through.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qat.arithmetic.dynamic import one_by_one

from .functions import straight_through

#: The unrounded integers of a tensor, those of the grid, and the scale.
Gridded = tuple[Tensor, Tensor, Tensor]


def on_grid(x: Tensor, axes: tuple[int, ...], kernels: str) -> tuple[Tensor, Tensor]:
    """Return a tensor as integers less their zero point, and its scale; ``axes`` share one range."""
    seen = x.detach()
    low, high = seen.amin(axes, keepdim=True).clamp(max=0.0), seen.amax(axes, keepdim=True).clamp(min=0.0)
    v, q, scale = _GRIDS[kernels](x, low, high)
    return straight_through(v, q), scale


def _mlas(x: Tensor, low: Tensor, high: Tensor) -> Gridded:
    scale = torch.where(low == high, 1.0, (high - low) / 255.0)
    v = x / scale
    zero_point = (-low / scale).clamp(0.0, 255.0).round()
    return v, (v.detach().round() + zero_point).clamp(0.0, 255.0) - zero_point, scale


def _xnnpack(x: Tensor, low: Tensor, high: Tensor) -> Gridded:
    span = torch.where(low == high, 1.0, high - low)
    # Of two tensors: PyTorch divides a number by a tensor as a product with the reciprocal.
    inverse = torch.where(low == high, 1.0, torch.full_like(span, 255.0) / span)
    v = x * inverse
    from_low, from_high = -128.0 - low * inverse, 127.0 - high * inverse
    nearer = (-128.0 + low * inverse) + (127.0 + high * inverse) > 0
    zero_point = torch.where(nearer, from_low, from_high).clamp(-128.0, 127.0).round()
    return v, (v.detach().round() + zero_point).clamp(-128.0, 127.0) - zero_point, inverse.reciprocal()


def _tflite(x: Tensor, low: Tensor, high: Tensor) -> Gridded:
    span = torch.where(low == high, 1.0, high - low)
    scale = torch.where(low == high, 1.0, span / 255.0)
    low, high = (end.double() / (span.double() / 255.0) for end in (low, high))
    zero_point = torch.where(128.0 + low.abs() < 127.0 + high.abs(), -128.0 - low, 127.0 - high)
    zero_point = _half_away(zero_point.clamp(-128.0, 127.0)).float()
    rounded = _half_away(x.detach() * scale.reciprocal())
    return x / scale, (rounded + zero_point).clamp(-128.0, 127.0) - zero_point, scale


def _half_away(v: Tensor) -> Tensor:
    return (v + torch.copysign(torch.full_like(v, 0.5), v)).trunc()


_GRIDS: dict[str, Callable[[Tensor, Tensor, Tensor], Gridded]] = {
    "mlas": _mlas,
    "xnnpack": _xnnpack,
    **dict.fromkeys(("builtin", "builtin_depthwise", "builtin_groups"), _tflite),
}


def dequantize_accumulator(acc: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, kernels: str) -> Tensor:
    """Return an accumulator's real values; scales and bias broadcast against it. The order of products is the kernel's."""
    if kernels == "xnnpack":
        v = (acc * x_scale).double() * scale.double()
        return (v if bias is None else v + bias.double()).float()
    v = _PRODUCTS[kernels](acc, x_scale, scale)
    return v if bias is None else v + bias


def _depthwise_product(acc: Tensor, x_scale: Tensor, scale: Tensor) -> Tensor:
    single = torch.from_numpy(one_by_one(scale.numel())).to(scale.device).view(scale.shape)
    return (acc * torch.where(single, x_scale, scale)) * torch.where(single, scale, x_scale)


_PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mlas": lambda acc, x_scale, scale: acc * (x_scale * scale),
    "builtin": lambda acc, x_scale, scale: acc * (x_scale * scale),
    "builtin_depthwise": _depthwise_product,
    "builtin_groups": lambda acc, x_scale, scale: (acc * scale) * x_scale,
}
