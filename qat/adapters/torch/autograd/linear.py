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

from . import dense_gradients, passes, tensor_cores, vnni
from .by_operators import Limits
from .clip_mask import ClipMask, apply_clip_mask, save_clip_mask
from .conv_gradients import of_convolution
from .extremes import extra_output


@dataclass(frozen=True)
class WeightIntegers:
    """What a kernel computes with, besides its input.

    Attributes:
        scale: of each output channel's weights, float32 [channels].
        weight: int8 of the weight's shape and layout.
        bias: integers in float32 [channels]; None without a bias.
        multiplier: of each output channel's accumulator, float32 [channels].
        pack: packs the weight, and keeps it for the next batch of the same shape.
    """

    scale: Tensor
    weight: Tensor
    bias: Tensor | None
    multiplier: Tensor
    pack: vnni.Packed = field(default_factory=vnni.Packed)

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
    return WeightIntegers(*by.weight_integers(weight, bias, scales, qmax, per_channel, bias_limit))


def _rounded_weight(weight: Tensor, scale: Tensor, factor: Tensor | None) -> Tensor:
    """Return a weight's integers times a factor of each channel.

    The backward pass computes them again: the weight is in memory anyway, and keeping the integers was not faster.
    """
    return passes.of(weight).rounded_weight(weight, scale, factor)


def _requantized(
    ctx: Any, acc: Tensor, multiplier: Tensor, limits: Limits, axis: int, tracked: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the output's integers in the memory of an accumulator, and the extremes before rounding where they are tracked."""
    if not tracked:
        return passes.of(acc).requantize(acc, multiplier, limits, axis), None
    v = acc.mul_(multiplier.view(-1, 1, 1) if axis == 1 else multiplier)
    found = extra_output(ctx, v, tracked)
    return v.round_().clamp_(*limits), found


def kernels_of(x: Tensor) -> ModuleType:
    """Return the module with the accumulators of a tensor's device."""
    return tensor_cores if x.is_cuda else vnni


def save_input(x: Tensor, lo: int | None) -> Tensor:
    """Return a node's input as it is kept for the backward pass: in bytes where ``x`` lies in ``[lo, lo + 255]``, else ``x``."""
    return x if lo is None else vnni.to_table_index(x, lo)


def load_input(kept: Tensor, lo: int | None) -> Tensor:
    """Return the input that :func:`save_input` has kept."""
    if kept.dtype is not torch.uint8:
        return kept
    x = kept.float()
    return x.add_(lo) if lo else x


#: What has no gradient: the tensors of :class:`WeightIntegers`, then the scales of input and output. PyTorch looks at each
#: argument of a function: a tuple counts as one.
Parts = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]
#: Limits of the output, its clip mask, whether its range is tracked, ``lo`` of :data:`.vnni.conv2d`.
How = tuple[Limits, ClipMask, bool, int | None]


class _Conv2d(torch.autograd.Function):
    """``clamp(round(conv(x, w_int, b_int) * multiplier), lo, hi)`` from the float weight and bias, in one node."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: Parts, how: How, geometry: vnni.Geometry
    ) -> tuple[Tensor, Tensor | None]:
        (scale, w_int, b_int, multiplier, *scales), (limits, clip_mask, tracked, lo) = parts, how
        acc = kernels_of(x).conv2d(x, w_int, b_int, geometry, lo, vnni.pack)
        y, found = _requantized(ctx, acc, multiplier, limits, 1, tracked)
        ctx.save_for_backward(x, weight, scale, save_clip_mask(y, limits, clip_mask), multiplier, *scales)
        ctx.limits, ctx.geometry, ctx.has_bias = limits, geometry, bias is not None
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, weight, scale, saved, multiplier, input_scale, output_scale = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        # v = w x s_x / s_y + b / s_y: the scale of the weight cancels from its gradient. The factors are applied to the smaller
        # of gradient and weight.
        ratio = input_scale / output_scale
        grad = apply_clip_mask(grad, saved, ctx.limits)
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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: Parts, how: How) -> tuple[Tensor, Tensor | None]:
        (scale, w_int, b_int, multiplier, *scales), (limits, clip_mask, tracked, lo) = parts, how
        kept_x = save_input(x, lo)
        acc = kernels_of(x).linear(x, kept_x, w_int, b_int, lo, vnni.pack)
        y, found = _requantized(ctx, acc, multiplier, limits, -1, tracked)
        ctx.save_for_backward(kept_x, weight, scale, save_clip_mask(y, limits, clip_mask), multiplier, *scales)
        ctx.limits, ctx.lo, ctx.has_bias = limits, lo, bias is not None
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        kept_x, weight, scale, saved, multiplier, input_scale, output_scale = ctx.saved_tensors
        grad = apply_clip_mask(grad, saved, ctx.limits)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        rows = grad.flatten(0, -2)
        gx = gw = None
        if need_x:
            w = _rounded_weight(weight, scale, multiplier)
            gx = dense_gradients.of_input(rows, w).view(kept_x.shape)
        if need_w:
            gw = dense_gradients.of_weight(rows, load_input(kept_x, ctx.lo).flatten(0, -2)).mul_(input_scale / output_scale)
        gb = rows.sum(0).div_(output_scale) if ctx.has_bias and need_b else None
        return gx, gw, gb, None, None


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    integers: WeightIntegers,
    scales: tuple[Tensor, Tensor],
    how: How,
    geometry: vnni.Geometry,
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
    found: tuple[Tensor, Tensor | None] = _Conv2d.apply(x, weight, bias, (*integers.tensors, *scales), how, geometry)
    return found


def dense(
    x: Tensor, weight: Tensor, bias: Tensor | None, integers: WeightIntegers, scales: tuple[Tensor, Tensor], how: How
) -> tuple[Tensor, Tensor | None]:
    """Return a fully connected layer's integers; the arguments are those of :func:`conv2d`, without a geometry."""
    found: tuple[Tensor, Tensor | None] = _Dense.apply(x, weight, bias, (*integers.tensors, *scales), how)
    return found


def evaluated_conv2d(x: Tensor, integers: WeightIntegers, limits: Limits, geometry: vnni.Geometry, lo: int | None) -> Tensor:
    """Return a convolution's integers without what a backward pass reads; the packed weight is kept for the next batch."""
    acc = kernels_of(x).conv2d(x, integers.weight, integers.bias, geometry, lo, integers.pack)
    return passes.of(acc).requantize(acc, integers.multiplier, limits, 1)


def evaluated_dense(x: Tensor, integers: WeightIntegers, limits: Limits, lo: int | None) -> Tensor:
    """Return a fully connected layer's integers as :func:`evaluated_conv2d`."""
    acc = kernels_of(x).linear(x, save_input(x, lo), integers.weight, integers.bias, lo, integers.pack)
    return passes.of(acc).requantize(acc, integers.multiplier, limits, -1)
