"""Convolutions and fully connected layers on the integer grid: one autograd node each, from the float weight to the output.

Weights are never clipped, since their scale is their largest magnitude, so their gradient passes everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qat.arithmetic.grid import BIAS_LIMIT

from . import byte_kernels, dense_gradients, passes, tensor_cores
from .by_operators import Limits
from .clip_mask import Output, apply_clip_mask, rounded, save_clip_mask
from .conv_gradients import of_convolution
from .kept_bytes import keep, restore


@dataclass(frozen=True)
class WeightIntegers:
    """What a kernel computes with, besides its input.

    Attributes:
        scale: of each output channel's weights, float32 [channels].
        weight: int8 of the weight's shape and layout.
        bias: integers in float32 [channels]; None without a bias.
        multiplier: of each output channel's accumulator, float32 [channels].
        qmax: the largest integer of the weight.
        pack: packs the weight, and keeps it for the next batch of the same shape.
    """

    scale: Tensor
    weight: Tensor
    bias: Tensor | None
    multiplier: Tensor
    qmax: int
    pack: byte_kernels.Packed = field(default_factory=byte_kernels.Packed)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The tensors in their order."""
        return self.scale, self.weight, self.bias, self.multiplier


def weight_integers(
    weight: Tensor,
    bias: Tensor | None,
    scales: tuple[Tensor, Tensor],
    qmax: int,
    per_channel: bool,
    bias_limit: float = BIAS_LIMIT,
) -> WeightIntegers:
    """Return what a kernel computes with; the arguments are those of :func:`.by_operators.weight_integers`."""
    by = passes.of(weight)
    return WeightIntegers(*by.weight_integers(weight, bias, scales, qmax, per_channel, bias_limit), qmax)


def _rounded_weight(weight: Tensor, scale: Tensor, factor: Tensor | None) -> Tensor:
    """Return a weight's integers times a factor of each channel.

    The backward pass computes them again: the weight is in memory anyway, and keeping the integers was not faster.
    """
    return passes.of(weight).rounded_weight(weight, scale, factor)


def kernels_of(x: Tensor) -> ModuleType:
    """Return the module with the accumulators of a tensor's device."""
    return tensor_cores if x.is_cuda else byte_kernels


#: What has no gradient: the tensors of :class:`WeightIntegers`, then the scales of input and output. PyTorch looks at each
#: argument of a function: a tuple counts as one.
Parts = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]
#: What is asked of the output, and ``lo`` of :data:`.byte_kernels.conv2d`; the functions' have ``qmax``, too.
How = tuple[Output, int | None]


class _Conv2d(torch.autograd.Function):
    """``clamp(round(conv(x, w_int, b_int) * multiplier), lo, hi)`` from the float weight and bias, in one node."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        parts: Parts,
        how: tuple[*How, int],
        geometry: byte_kernels.Geometry,
    ) -> tuple[Tensor, Tensor | None]:
        (scale, w_int, b_int, multiplier, *scales), (output, lo, qmax) = parts, how
        kept_x = keep(x, lo)
        acc = kernels_of(x).conv2d(x, kept_x, w_int, b_int, geometry, lo, qmax, byte_kernels.pack)
        y, found = rounded(ctx, acc, multiplier, output, 1)
        ctx.save_for_backward(kept_x, weight, scale, save_clip_mask(y, output), multiplier, *scales)
        ctx.output, ctx.lo, ctx.geometry, ctx.has_bias = output, lo, geometry, bias is not None
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        kept_x, weight, scale, saved, multiplier, input_scale, output_scale = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        # v = w x s_x / s_y + b / s_y: the scale of the weight cancels from its gradient. The factors are applied to the smaller
        # of gradient and weight.
        ratio = input_scale / output_scale
        grad = apply_clip_mask(grad, saved, ctx.output)
        x = restore(kept_x, ctx.lo) if need_w else torch.empty_like(kept_x, dtype=weight.dtype)  # else its shape alone is read
        gx = gw = gb = None
        need_b = need_b and ctx.has_bias
        if weight.numel() > grad.numel():
            if need_x:
                w = _rounded_weight(weight, scale, None)
                gx, _, _ = of_convolution(grad * multiplier.view(-1, 1, 1), x, w, ctx.geometry, (True, False, False))
            _, gw, gb = of_convolution(grad * ratio, x, weight, ctx.geometry, (False, need_w, need_b))
            bias_factor = input_scale
        else:
            w = _rounded_weight(weight, scale, multiplier) if need_x else weight  # else its shape alone is read
            gx, gw, gb = of_convolution(grad, x, w, ctx.geometry, (need_x, need_w, need_b))
            if gw is not None:
                gw.mul_(ratio)
            bias_factor = output_scale
        if gb is not None:
            gb.div_(bias_factor)
        return gx, gw, gb, None, None, None


class _Dense(torch.autograd.Function):
    """``clamp(round((x w_int^T + b_int) * multiplier), lo, hi)`` from the float weight and bias, in one node."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: Parts, how: tuple[*How, int]
    ) -> tuple[Tensor, Tensor | None]:
        (scale, w_int, b_int, multiplier, *scales), (output, lo, qmax) = parts, how
        kept_x = keep(x, lo)
        acc = kernels_of(x).linear(x, kept_x, w_int, b_int, lo, qmax, byte_kernels.pack)
        y, found = rounded(ctx, acc, multiplier, output)
        ctx.save_for_backward(kept_x, weight, scale, save_clip_mask(y, output), multiplier, *scales)
        ctx.output, ctx.lo, ctx.has_bias = output, lo, bias is not None
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        kept_x, weight, scale, saved, multiplier, input_scale, output_scale = ctx.saved_tensors
        grad = apply_clip_mask(grad, saved, ctx.output)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        rows = grad.flatten(0, -2)
        gx = gw = None
        if need_x:
            w = _rounded_weight(weight, scale, multiplier)
            gx = dense_gradients.of_input(rows, w).view(kept_x.shape)
        if need_w:
            gw = dense_gradients.of_weight(rows, restore(kept_x, ctx.lo).flatten(0, -2)).mul_(input_scale / output_scale)
        gb = rows.sum(0).div_(output_scale) if ctx.has_bias and need_b else None
        return gx, gw, gb, None, None


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    integers: WeightIntegers,
    scales: tuple[Tensor, Tensor],
    how: How,
    geometry: byte_kernels.Geometry,
) -> tuple[Tensor, Tensor | None]:
    """Return a convolution's integers, and their extremes before rounding where they are tracked.

    Args:
        x: the input's integers.
        weight: float32, which with ``bias`` gets a gradient.
        bias: float32.
        integers: what the kernel computes with.
        scales: of input and output.
        how: what is asked of the output.
        geometry: of the windows.
    """
    found: tuple[Tensor, Tensor | None] = _Conv2d.apply(
        x, weight, bias, (*integers.tensors, *scales), (*how, integers.qmax), geometry
    )
    return found


def dense(
    x: Tensor, weight: Tensor, bias: Tensor | None, integers: WeightIntegers, scales: tuple[Tensor, Tensor], how: How
) -> tuple[Tensor, Tensor | None]:
    """Return a fully connected layer's integers; the arguments are those of :func:`conv2d`, without a geometry."""
    found: tuple[Tensor, Tensor | None] = _Dense.apply(x, weight, bias, (*integers.tensors, *scales), (*how, integers.qmax))
    return found


def evaluated_conv2d(
    x: Tensor, integers: WeightIntegers, limits: Limits, geometry: byte_kernels.Geometry, lo: int | None
) -> Tensor:
    """Return a convolution's integers without what a backward pass reads; the packed weight is kept for the next batch."""
    acc = kernels_of(x).conv2d(x, x, integers.weight, integers.bias, geometry, lo, integers.qmax, integers.pack)
    return passes.of(acc).requantize(acc, integers.multiplier, limits, 1, None)[0]


def evaluated_dense(x: Tensor, integers: WeightIntegers, limits: Limits, lo: int | None) -> Tensor:
    """Return a fully connected layer's integers as :func:`evaluated_conv2d`."""
    acc = kernels_of(x).linear(x, x, integers.weight, integers.bias, lo, integers.qmax, integers.pack)
    return passes.of(acc).requantize(acc, integers.multiplier, limits, -1, None)[0]
