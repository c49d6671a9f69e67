"""Integer-grid kernels: one autograd node each. The forward pass is the runtime's arithmetic, the backward one elementwise pass.

Source of the straight-through estimator: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic
Neurons"; a value at the type's limits gets no gradient (Jacob et al. 2018, section 3). The limits are read off the rounded
output, which the next kernel keeps anyway: a node saves no activation of its own, and its passes are in place. Weights are
never clipped, since their scale is their largest magnitude, so their gradient passes whole.

Built-in fake-quantize operators are not used: they cost several times what these elementwise passes cost.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qat.arithmetic import xnnpack
from qat.arithmetic.grid import BIAS_LIMIT
from qat.arithmetic.kernels import KERNELS

from . import vnni
from .conv_gradients import of_convolution

aten = torch.ops.aten
hardtanh_backward = aten.hardtanh_backward.default

#: Below this many weights a call costs more than the pass that it spares.
_FEW = 2**15
_SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny) * 2.0**40

Observe = Callable[[Tensor], None] | None


def weight_scale(
    weight: Tensor, bias: Tensor | None, input_scale: Tensor, qmax: int, per_channel: bool, bias_limit: float = BIAS_LIMIT
) -> Tensor:
    """Return each output channel's scale (axis 0), of shape (channels,); see :func:`qat.arithmetic.grid.weight_scale`."""
    axes = tuple(range(1 if per_channel else 0, weight.ndim))
    weight = weight.detach()
    if weight.numel() < _FEW:
        peak = weight.abs().amax(axes)
    else:  # two reductions that write nothing: for a large weight several times faster than abs, or than aminmax over an axis
        peak = torch.maximum(weight.amax(axes), -weight.amin(axes))
    scale = (peak / qmax).clamp_min_(_SMALLEST_SCALE)
    if bias is not None:
        floor = bias.detach().abs().div_(input_scale * bias_limit)
        scale = torch.maximum(scale, floor if per_channel else floor.amax())
    return scale if per_channel else scale.expand(weight.shape[0])


def whole(weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight's integers, float32 in its layout in memory.

    The backward pass computes them again: the weight is there anyway, and keeping them was no quicker.
    """
    return (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round_()


class Keep(Enum):
    """What a node keeps of its output, to know in the backward pass where it is within its limits.

    Attributes:
        VALUES: the output itself, which a reader keeps anyway.
        BYTES: a byte for each value.
        NOTHING: its readers' gradients are 0 where it is at its limits.
    """

    VALUES = "values"
    BYTES = "bytes"
    NOTHING = "nothing"


def mark(y: Tensor, limits: tuple[float, float], keep: Keep) -> Tensor | None:
    """Return what a node keeps of its output."""
    if keep is Keep.NOTHING:
        return None
    return y if keep is Keep.VALUES or limits[1] - limits[0] > 255 else vnni.places(y, int(limits[0]), 256, True)


def passed(grad: Tensor, marked: Tensor | None, limits: tuple[float, float]) -> Tensor:
    """Return the gradient where :func:`mark` saw the output strictly within the limits, else 0; perhaps ``grad`` itself."""
    if marked is None:
        return grad
    if marked.dtype is torch.uint8:
        place = marked.float()
        return aten.hardtanh_backward.grad_input(grad, place, 0.0, limits[1] - limits[0], grad_input=place)
    return hardtanh_backward(grad, marked, *limits)


def stored(x: Tensor, lo: int | None) -> Tensor:
    """Return what a node keeps of its input: bytes, where ``x`` lies in ``[lo, lo + 255]`` for sure, else ``x``."""
    return x if lo is None else vnni.places(x, lo, 256, True)


def restored(kept: Tensor, lo: int | None) -> Tensor:
    """Return the input that :func:`stored` has kept."""
    if kept.dtype is not torch.uint8:
        return kept
    x = kept.float()
    return x.add_(lo) if lo else x


class _RoundClamp(torch.autograd.Function):
    """``clamp(round(v), lo, hi)``; the gradient passes where the result is strictly within the limits."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, lo: float, hi: float) -> Tensor:
        y = v.round().clamp_(lo, hi)
        ctx.save_for_backward(y)
        ctx.limits = (lo, hi)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return hardtanh_backward(grad, y, *ctx.limits), None, None


def round_clamp(v: Tensor, lo: float, hi: float) -> Tensor:
    """Return ``clamp(round(v), lo, hi)`` with a straight-through gradient."""
    return _RoundClamp.apply(v, lo, hi)


class _StraightThrough(torch.autograd.Function):
    """Another value with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, replacement: Tensor) -> Tensor:
        return replacement.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(v: Tensor, replacement: Tensor) -> Tensor:
    """Return ``replacement`` with the gradient of ``v``."""
    return _StraightThrough.apply(v, replacement)


class _Add(torch.autograd.Function):
    """``clamp(round(a * ra + b * rb), lo, hi)`` in one node; ``a`` and ``b`` broadcast."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, ra: float, rb: float, limits: tuple[float, float], keep: Keep, observe: Observe
    ) -> Tensor:
        v = (a * ra).add_(b, alpha=rb)
        if observe is not None:
            observe(v)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(mark(y, limits, keep))
        ctx.ratios, ctx.limits, ctx.shapes = (ra, rb), limits, (a.shape, b.shape)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (marked,) = ctx.saved_tensors
        grad = passed(grad, marked, ctx.limits)
        # Summed over what was broadcast before it is scaled: the sum is the smaller.
        ga, gb = (
            grad.sum_to_size(shape) * ratio if needed else None
            for shape, ratio, needed in zip(ctx.shapes, ctx.ratios, ctx.needs_input_grad[:2], strict=True)
        )
        return ga, gb, None, None, None, None, None


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
        limits: tuple[float, float],
        keep: Keep,
        geometry: vnni.Geometry,
        observe: Observe,
        lo: int | None,
    ) -> Tensor:
        bias_scale = scale * input_scale
        w_int = whole(weight, scale).to(torch.int8)
        b_int = None if bias is None else (bias / bias_scale).round_()
        multiplier = (bias_scale / output_scale).view(-1, 1, 1)
        v = vnni.conv2d(x, w_int, b_int, geometry, lo)
        v.mul_(multiplier)
        if observe is not None:
            observe(v)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(x, weight, scale, mark(y, limits, keep), multiplier, input_scale, output_scale)
        ctx.limits, ctx.geometry, ctx.has_bias = limits, geometry, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, marked, multiplier, input_scale, output_scale = ctx.saved_tensors
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        # v = w x s_x / s_y + b / s_y: in the gradient of the weight its own scale cancels. The factors go where they cost less,
        # onto the gradients or onto the weights.
        ratio = input_scale / output_scale
        grad = passed(grad, marked, ctx.limits)
        gx = gw = gb = None
        if vnni.prefers_plain_layout(weight, grad):
            x, grad = vnni.in_plain_layout(x), vnni.in_plain_layout(grad)
        elif x.numel() < grad.numel() and not grad.is_contiguous():  # else the gradient would be copied into its layout
            x = x.contiguous(memory_format=torch.channels_last)

        need_b = need_b and ctx.has_bias
        if weight.numel() > grad.numel():
            if need_x:
                gx, _, _ = of_convolution(grad * multiplier, x, whole(weight, scale), ctx.geometry, (True, False, False))
            _, gw, gb = of_convolution(grad * ratio, x, weight, ctx.geometry, (False, need_w, need_b))
            bias_factor = input_scale
        else:
            w = whole(weight, scale)
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
        limits: tuple[float, float],
        keep: Keep,
        observe: Observe,
        lo: int | None,
    ) -> Tensor:
        bias_scale = scale * input_scale
        w_int = whole(weight, scale).to(torch.int8)
        b_int = None if bias is None else (bias / bias_scale).round_()
        multiplier = bias_scale / output_scale
        kept_x = stored(x, lo)
        v = vnni.linear(x, kept_x, w_int, b_int, lo).mul_(multiplier)
        if observe is not None:
            observe(v)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(kept_x, weight, scale, mark(y, limits, keep), multiplier, input_scale, output_scale)
        ctx.limits, ctx.lo, ctx.has_bias = limits, lo, bias is not None
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept_x, weight, scale, marked, multiplier, input_scale, output_scale = ctx.saved_tensors
        grad = passed(grad, marked, ctx.limits)
        need_x, need_w, need_b = ctx.needs_input_grad[:3]
        rows = grad.flatten(0, -2)
        gx = grad @ whole(weight, scale).mul_(multiplier.view(-1, 1)) if need_x else None
        gw = (rows.t() @ restored(kept_x, ctx.lo).flatten(0, -2)).mul_(input_scale / output_scale) if need_w else None
        gb = rows.sum(0).div_(output_scale) if ctx.has_bias and need_b else None
        return gx, gw, gb, None, None, None, None, None, None, None


class _MatMul(torch.autograd.Function):
    """``clamp(round((a @ b) * multiplier), lo, hi)`` in one node; leading axes broadcast."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, multiplier: Tensor, limits: tuple[float, float], keep: Keep, observe: Observe
    ) -> Tensor:
        v = torch.matmul(a, b).mul_(multiplier)
        if observe is not None:
            observe(v)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(a, b, mark(y, limits, keep), multiplier)
        ctx.limits = limits
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, marked, multiplier = ctx.saved_tensors
        grad = passed(grad, marked, ctx.limits) * multiplier
        need_a, need_b = ctx.needs_input_grad[:2]
        ga = torch.matmul(grad, b.mT).sum_to_size(a.shape) if need_a else None
        gb = torch.matmul(a.mT, grad).sum_to_size(b.shape) if need_b else None
        return ga, gb, None, None, None, None


class _Lookup(torch.autograd.Function):
    """``values[x - first]``; the gradient is ``slopes[x - first]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, slopes: Tensor, first: int, sure: bool) -> Tensor:
        index = vnni.places(x, first, len(values), sure)
        ctx.save_for_backward(index, slopes)
        return values.index_select(0, index.to(torch.int32).flatten()).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, slopes = ctx.saved_tensors
        slope = slopes.index_select(0, index.to(torch.int32).flatten()).view(grad.shape)
        return slope.mul_(grad), None, None, None, None


class _Softmax(torch.autograd.Function):
    """``clamp(round(softmax(x * factor) * units), lo, hi)`` over the last axis.

    Nothing is clipped at 0, and 1 is as good as what is next to it: the gradient passes everywhere, as that of a softmax.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, units: float, limits: tuple[float, float]) -> Tensor:
        p = torch.softmax(x * factor, -1)
        ctx.save_for_backward(p, factor)
        ctx.units = units
        return (p * units).round_().clamp_(*limits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        p, factor = ctx.saved_tensors
        return aten._softmax_backward_data(grad, p, -1, p.dtype).mul_(factor * ctx.units), None, None, None


class _LayerNorm(torch.autograd.Function):
    """``clamp(round(layer_norm(x) / output_scale), lo, hi)`` over the last axis, in one node."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        epsilon: float,
        output_scale: Tensor,
        limits: tuple[float, float],
        keep: Keep,
        observe: Observe,
    ) -> Tensor:
        # In the output's units from the start, which spares a pass over the result, and one over its gradient.
        gamma = (x.new_ones(x.shape[-1]) if gamma is None else gamma) / output_scale
        beta = None if beta is None else beta / output_scale
        v, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gamma, beta, epsilon)
        if observe is not None:
            observe(v)
        y = v.round_().clamp_(*limits)
        ctx.save_for_backward(x, gamma, beta, mean, rstd, mark(y, limits, keep), output_scale)
        ctx.limits = limits
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, mean, rstd, marked, output_scale = ctx.saved_tensors
        grad, needed = passed(grad, marked, ctx.limits), [*ctx.needs_input_grad[:3]]
        gx, g_gamma, g_beta = aten.native_layer_norm_backward(grad, x, x.shape[-1:], mean, rstd, gamma, beta, needed)
        for g in (g_gamma, g_beta):
            if g is not None:
                g.div_(output_scale)
        return gx, g_gamma, g_beta, None, None, None, None, None


matmul = _MatMul.apply
lookup = _Lookup.apply
softmax = _Softmax.apply
layer_norm = _LayerNorm.apply
conv2d = _Conv2d.apply
dense = _Dense.apply
add = _Add.apply


# --- eval-mode arithmetic, exact in every bit ------------------------------------------------------------------------
# Training uses the float32 form of these formulas, which differs in about one of 10^6 values by one step.


def add_exact(a: Tensor, b: Tensor, grids: tuple[Any, Any, Any], lo: float, hi: float, kernels: str) -> Tensor:
    """Return ``a + b`` on the third grid; see :func:`qat.arithmetic.kernels.Kernels.add`."""
    ga, gb, gy = grids
    ra, rb = ga.scale / gy.scale, gb.scale / gy.scale
    if kernels == "mlas":
        fixed = gy.zero_point - _fma(ga.zero_point, ra, rb * gb.zero_point)
        v = _fma(a + ga.zero_point, ra, _fma(b + gb.zero_point, rb, fixed)).round_() - gy.zero_point
    elif kernels == "reference" or not xnnpack.adds(np.float32(float(ra)), np.float32(float(rb))):
        # Rare: the scales are further apart than the delegate takes.
        encodings = (ga.encoding, gb.encoding, gy.encoding)
        v = torch.from_numpy(KERNELS[kernels].add(a.cpu().numpy(), b.cpu().numpy(), *encodings, lo, hi)).to(a.device)
    else:
        ma, mb, shift = xnnpack.add_multipliers(float(ra), float(rb))
        # Products of 8 by 21 bits: every step is exact in float64.
        v = ((a.double() * ma + b.double() * mb + 2.0 ** (shift - 1)) * 2.0**-shift).floor_().float()
    return v.clamp_(lo, hi)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return float32 ``a * b + c`` with one rounding; ``a`` is an 8-bit integer."""
    return (a.double() * b.double() + c.double()).float()


def fixed_point(acc: Tensor, multiplier: Tensor) -> Tensor:
    """Return ``acc * multiplier`` by TFLite's optimized kernels, halves up; see :func:`qat.arithmetic.tflite.fixed_point`."""
    mantissa, shift = _quantized_multiplier(multiplier)
    left, right = shift.clamp(min=0), (-shift).clamp(min=0)
    high = ((acc.long() << left) * mantissa + (1 << 30)) >> 31
    return ((high + ((torch.ones_like(right) << right) >> 1)) >> right).float()


def _quantized_multiplier(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return int64 mantissa of 31 bits and shift; see :func:`qat.arithmetic.tflite.quantize_multiplier`."""
    fraction, shift = torch.frexp(value.double())
    mantissa = (fraction * 2.0**31 + 0.5).floor().long()
    full = mantissa == 1 << 31
    return torch.where(full, mantissa // 2, mantissa), shift.long() + full
