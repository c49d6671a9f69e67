"""Operators whose weight alone is stored in another form: float in, float out.

The weight is rounded to what the artifact will hold, and in dynamic mode the activation to the grid that the runtime will choose,
with straight-through gradients; the operator computes with those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat.adapters.torch.autograd.functions import straight_through
from qat.adapters.torch.autograd.linear import weight_scale
from qat.adapters.torch.capture.conv1d import as_image_weight
from qat.arithmetic.dynamic import one_by_one, range_axes
from qat.graph.kinds import KINDS
from qat.planning.plan import PlannedOp

from .base import Node
from .table import NODES


class Stored(Node):
    """conv2d, depthwise_conv2d or dense in one of :data:`qat.planning.modes.STORED`."""

    def __init__(self, planned: PlannedOp) -> None:
        super().__init__(planned, (), planned.kernels)
        self.operator = NODES[planned.op.kind](planned, (), planned.kernels)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute with the weight in the program's layout."""
        return super().compute(x, self.laid(weight), bias)

    def laid(self, weight: Tensor) -> Tensor:
        """Return the parameter in the program's layout."""
        return as_image_weight(weight)

    def integer(self, *args: Any) -> Tensor:
        """Compute as ever: there is no grid."""
        return self.real(*args)

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The operator on the weight as it is stored."""
        w, scale = self.quantized(weight)
        if self.planned.mode != "dynamic":
            return self.operator.real(x, w * _along_rows(scale, w), bias)
        axes = range_axes(
            bool(KINDS[self.planned.op.kind].spatial),
            self.planned.op.attrs.get("strides", ()),
            self.kernels,
            x.shape,
            weight.shape[2:],
            channel_axis=1,
        )
        x_int, x_scale = on_dynamic_grid(x, axes, self.kernels)
        channels = (-1,) if self.planned.op.kind == "dense" else (-1, *[1] * (x.ndim - 2))
        acc = self.operator.real(x_int, w, None)
        return leave(acc, x_scale, scale.view(channels), None if bias is None else bias.view(channels), self.kernels)

    def quantized(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight as it is stored, in float32, and the scale of each output channel, of shape (channels,)."""
        spec = self.planned.weight
        if spec is None:
            return straight_through(weight, weight.detach().half().float()), weight.new_ones(weight.shape[0])
        scale = weight_scale(weight, None, weight.new_ones(()), self.planned.qmax, spec.granularity == "channel")
        v = weight / _along_rows(scale, weight)
        return straight_through(v, v.detach().round()), scale


def _along_rows(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


def on_dynamic_grid(x: Tensor, axes: tuple[int, ...], kernels: str) -> tuple[Tensor, Tensor]:
    """Return a tensor on the grid that the runtime chooses for it, and its scale; see :func:`qat.arithmetic.dynamic.on_grid`."""
    seen = x.detach()
    low, high = seen.amin(axes, keepdim=True).clamp(max=0.0), seen.amax(axes, keepdim=True).clamp(min=0.0)
    span = torch.where(low == high, 1.0, high - low)
    if kernels == "xnnpack":
        # Of two tensors: PyTorch divides a number by a tensor as a product with the reciprocal.
        inverse = torch.where(low == high, 1.0, torch.full_like(span, 255.0) / span)
        from_low, from_high = -128.0 - low * inverse, 127.0 - high * inverse
        nearer = (-128.0 + low * inverse) + (127.0 + high * inverse) > 0
        zero_point = torch.where(nearer, from_low, from_high).clamp(-128.0, 127.0).round()
        q = ((seen * inverse).round() + zero_point).clamp(-128.0, 127.0) - zero_point
        return straight_through(x * inverse, q), inverse.reciprocal()
    scale = torch.where(low == high, 1.0, span / 255.0)
    if kernels == "mlas":
        zero_point = (-low / scale).clamp(0.0, 255.0).round()
        q = ((seen / scale).round() + zero_point).clamp(0.0, 255.0) - zero_point
    else:
        low, high = (end.double() / (span.double() / 255.0) for end in (low, high))
        zero_point = torch.where(128.0 + low.abs() < 127.0 + high.abs(), -128.0 - low, 127.0 - high)
        zero_point = _half_away(zero_point.clamp(-128.0, 127.0)).float()
        q = (_half_away(seen * scale.reciprocal()) + zero_point).clamp(-128.0, 127.0) - zero_point
    return straight_through(x / scale, q), scale


def _half_away(v: Tensor) -> Tensor:
    return (v + torch.copysign(torch.full_like(v, 0.5), v)).trunc()


def leave(acc: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, kernels: str) -> Tensor:
    """Return an accumulator's real values, as :func:`qat.arithmetic.dynamic.dequantize_accumulator` does."""
    if kernels == "xnnpack":
        v = (acc * x_scale).double() * scale.double()
        return (v if bias is None else v + bias.double()).float()
    if kernels == "builtin_depthwise":
        single = torch.from_numpy(one_by_one(scale.numel())).to(scale.device).view(scale.shape)
        v = (acc * torch.where(single, x_scale, scale)) * torch.where(single, scale, x_scale)
    else:
        v = (acc * scale) * x_scale if kernels == "builtin_groups" else acc * (x_scale * scale)
    return v if bias is None else v + bias
