"""Convolutions and fully connected layers on the integer grid: one autograd node each, from the float weight to the output.

Weights are never clipped, since their scale is their largest magnitude, so their gradient passes everywhere.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from qat.arithmetic.grid import BIAS_LIMIT

from . import dense_gradients, tensor_cores, vnni
from .clip_mask import ClipMask, Limits, apply_clip_mask, save_clip_mask
from .conv_gradients import of_convolution
from .extremes import extra_output

#: Below this many weights the second reduction costs more than the copy.
_FEW = 2**15
_SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny) * 2.0**40


def weight_scale(
    weight: Tensor, bias: Tensor | None, input_scale: Tensor, qmax: int, per_channel: bool, bias_limit: float = BIAS_LIMIT
) -> Tensor:
    """Return each output channel's scale (axis 0), of shape (channels,); see :func:`qat.arithmetic.grid.weight_scale`."""
    axes = tuple(range(1 if per_channel else 0, weight.ndim))
    weight = weight.detach()
    if weight.numel() < _FEW:
        peak = weight.abs().amax(axes)
    else:  # two reductions without a copy: several times faster for a large weight than abs, or than aminmax over an axis
        peak = torch.maximum(weight.amax(axes), -weight.amin(axes))
    scale = (peak / qmax).clamp_min_(_SMALLEST_SCALE)
    if bias is not None:
        floor = bias.detach().abs().div_(input_scale * bias_limit)
        scale = torch.maximum(scale, floor if per_channel else floor.amax())
    return scale if per_channel else scale.expand(weight.shape[0])


def quantize_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight's integers, float32 in its layout in memory.

    The backward pass computes them again: the weight is in memory anyway, and keeping the integers was not faster.
    """
    return (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round_()


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


class _Conv2d(torch.autograd.Function):
    """``clamp(round(conv(x, w_int, b_int) * multiplier), lo, hi)`` from the float weight and bias, in one node."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        input_scale: Tensor,
        output_scale: Tensor,
        limits: Limits,
        clip_mask: ClipMask,
        geometry: vnni.Geometry,
        tracked: bool,
        lo: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        bias_scale = scale * input_scale
        w_int = quantize_weight(weight, scale).to(torch.int8)
        b_int = None if bias is None else (bias / bias_scale).round_()
        multiplier = (bias_scale / output_scale).view(-1, 1, 1)
        v = kernels_of(x).conv2d(x, w_int, b_int, geometry, lo)
        v.mul_(multiplier)
        found = extra_output(ctx, v, tracked)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(x, weight, scale, save_clip_mask(y, limits, clip_mask), multiplier, input_scale, output_scale)
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
                gx, _, _ = of_convolution(
                    grad * multiplier, x, quantize_weight(weight, scale), ctx.geometry, (True, False, False)
                )
            _, gw, gb = of_convolution(grad * ratio, x, weight, ctx.geometry, (False, need_w, need_b))
            bias_factor = input_scale
        else:
            w = quantize_weight(weight, scale)
            if need_x:
                w.mul_(multiplier.unsqueeze(-1))
            gx, gw, gb = of_convolution(grad, x, w, ctx.geometry, (need_x, need_w, need_b))
            if gw is not None:
                gw.mul_(ratio)
            bias_factor = output_scale
        if gb is not None:
            gb.div_(bias_factor)
        return gx, gw, gb, None, None, None, None, None, None, None, None


class _Dense(torch.autograd.Function):
    """``clamp(round((x w_int^T + b_int) * multiplier), lo, hi)`` from the float weight and bias, in one node."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        input_scale: Tensor,
        output_scale: Tensor,
        limits: Limits,
        clip_mask: ClipMask,
        tracked: bool,
        lo: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        bias_scale = scale * input_scale
        w_int = quantize_weight(weight, scale).to(torch.int8)
        b_int = None if bias is None else (bias / bias_scale).round_()
        multiplier = bias_scale / output_scale
        kept_x = save_input(x, lo)
        v = kernels_of(x).linear(x, kept_x, w_int, b_int, lo).mul_(multiplier)
        found = extra_output(ctx, v, tracked)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(kept_x, weight, scale, save_clip_mask(y, limits, clip_mask), multiplier, input_scale, output_scale)
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
            w = quantize_weight(weight, scale).mul_(multiplier.view(-1, 1))
            gx = dense_gradients.of_input(rows, w).view(kept_x.shape)
        if need_w:
            gw = dense_gradients.of_weight(rows, load_input(kept_x, ctx.lo).flatten(0, -2)).mul_(input_scale / output_scale)
        gb = rows.sum(0).div_(output_scale) if ctx.has_bias and need_b else None
        return gx, gw, gb, None, None, None, None, None, None, None


conv2d = _Conv2d.apply
dense = _Dense.apply
