"""Elementwise operators, products and normalizations on the integer grid: one autograd node each.

The forward pass is the runtime's arithmetic, the backward one elementwise pass. Source of the straight-through estimator: Bengio
et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons". The limits are read off the rounded output, which
the next kernel keeps anyway: a node saves no activation of its own, and its passes are in place.

PyTorch's fake-quantize operators are not used: they cost several times what these elementwise passes cost.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from qat.arithmetic.encoding import Encoding

from . import passes
from .clip_mask import Output, apply_clip_mask, rounded, save_clip_mask
from .kept_bytes import keep, restore

aten = torch.ops.aten


class Encoded(Protocol):
    """The encoding of a tensor: scale and zero point as scalars on its device, and all of it in NumPy."""

    scale: Tensor
    zero_point: Tensor

    @property
    def encoding(self) -> Encoding:
        """The encoding in NumPy."""


class _RoundClamp(torch.autograd.Function):
    """``clamp(round(v), lo, hi)``; the gradient passes where the result is strictly within the limits."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, output: Output) -> Tensor:
        y = passes.of(v).round_clamp(v, output.limits)
        ctx.save_for_backward(save_clip_mask(y, output))
        ctx.output = output
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (saved,) = ctx.saved_tensors
        return apply_clip_mask(grad, saved, ctx.output), None


def round_clamp(v: Tensor, lo: float, hi: float) -> Tensor:
    """Return ``clamp(round(v), lo, hi)`` with a straight-through gradient."""
    return rounded_output(v, Output((lo, hi)))


def rounded_output(v: Tensor, output: Output) -> Tensor:
    """Return unrounded integers rounded, within the limits that are asked for, with a straight-through gradient."""
    y: Tensor = _RoundClamp.apply(v, output)
    return y


class _StraightThrough(torch.autograd.Function):
    """The second value, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, replacement: Tensor) -> Tensor:
        return replacement.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def straight_through(v: Tensor, replacement: Tensor) -> Tensor:
    """Return ``replacement`` with the gradient of ``v``."""
    return _StraightThrough.apply(v, replacement)


def scaled_sum(a: Tensor, b: Tensor, ra: float, rb: float) -> Tensor:
    """Return ``a * ra + b * rb``; ``a`` and ``b`` broadcast."""
    scaled = a * ra
    if a.shape != b.shape and scaled.shape != torch.broadcast_shapes(a.shape, b.shape):
        return torch.add(scaled, b, alpha=rb)
    return scaled.add_(b, alpha=rb)


class _Add(torch.autograd.Function):
    """``clamp(round(a * ra + b * rb), lo, hi)`` in one node; ``a`` and ``b`` broadcast."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, ra: float, rb: float, output: Output) -> tuple[Tensor, Tensor | None]:
        y, found = rounded(ctx, scaled_sum(a, b, ra, rb), None, output)
        ctx.save_for_backward(save_clip_mask(y, output))
        ctx.ratios, ctx.output, ctx.shapes = (ra, rb), output, (a.shape, b.shape)
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        grad = apply_clip_mask(grad, saved, ctx.output)
        # Summed over broadcast axes first, then scaled: the sum is the smaller tensor.
        ga, gb = (
            grad.sum_to_size(shape) * ratio if needed else None
            for shape, ratio, needed in zip(ctx.shapes, ctx.ratios, ctx.needs_input_grad[:2], strict=True)
        )
        return ga, gb, None, None, None


#: The integers that bytes of zero stand for where those of the two inputs are kept; None where the input itself is.
Firsts = tuple[int | None, int | None]


class _Mul(torch.autograd.Function):
    """``clamp(round(a * b * factor), lo, hi)`` in one node; ``a`` and ``b`` broadcast."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, factor: Tensor, output: Output, firsts: Firsts) -> tuple[Tensor, Tensor | None]:
        if output.tracked:
            y, found = rounded(ctx, a * b, factor, output)
        else:
            y, found = passes.of(a).product(a, b, factor, output.limits), None
        ctx.save_for_backward(keep(a, firsts[0]), keep(b, firsts[1]), factor, save_clip_mask(y, output))
        ctx.output, ctx.firsts = output, firsts
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        a, b, factor, saved = ctx.saved_tensors
        grad = apply_clip_mask(grad, saved, ctx.output)
        a, b = map(restore, (a, b), ctx.firsts)
        return *passes.of(grad).product_gradients(grad, a, b, factor), None, None, None


class _MatMul(torch.autograd.Function):
    """``clamp(round((a @ b) * multiplier), lo, hi)`` in one node; leading axes broadcast; ``b`` may be transposed first."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, transpose_b: bool, multiplier: Tensor, output: Output, firsts: Firsts
    ) -> tuple[Tensor, Tensor | None]:
        y, found = rounded(ctx, _products(a, b, transpose_b), multiplier, output)
        ctx.save_for_backward(keep(a, firsts[0]), keep(b, firsts[1]), save_clip_mask(y, output), multiplier)
        ctx.output, ctx.firsts, ctx.transpose_b = output, firsts, transpose_b
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        a, b, saved, multiplier = ctx.saved_tensors
        grad = apply_clip_mask(grad, saved, ctx.output) * multiplier
        need_a, need_b = ctx.needs_input_grad[:2]
        ga = gb = None
        if need_a:
            ga = _products(grad, restore(_in_rows(b), ctx.firsts[1]), not ctx.transpose_b).sum_to_size(a.shape)
        if need_b:
            gb = _products(restore(_in_rows(a), ctx.firsts[0]).mT, grad, False)
            gb = gb.mT.sum_to_size(b.shape) if ctx.transpose_b else gb.sum_to_size(b.shape)
        return ga, gb, None, None, None, None


def _products(a: Tensor, b: Tensor, transpose_b: bool) -> Tensor:
    """Return ``a @ b`` or ``a @ b.mT``. What must be copied, since its leading axes are not one in memory, is copied by rows."""
    a, b = _in_rows(a), _in_rows(b)
    return torch.matmul(a, b.mT if transpose_b else b)


def _in_rows(x: Tensor) -> Tensor:
    """Return a tensor whose leading axes are one in memory."""
    return x.flatten(0, -3).unflatten(0, x.shape[:-2]) if x.ndim > 3 else x


class _Lookup(torch.autograd.Function):
    """``values[x - first]``; the gradient is ``slopes[x - first]``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, slopes: Tensor, first: int) -> Tensor:
        index = keep(x, first)
        ctx.save_for_backward(index, slopes)
        return passes.of(x).look_up(index, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, slopes = ctx.saved_tensors
        return passes.of(grad).look_up_times(index, slopes, grad), None, None, None


class _Softmax(torch.autograd.Function):
    """``clamp(round(softmax(x * factor) * units), lo, hi)`` over the last axis.

    Nothing is clipped at 0, and the range follows the greatest value: the gradient is that of a softmax everywhere.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, units: Tensor, output: Output) -> tuple[Tensor, Tensor | None]:
        p = torch.softmax(x * factor, -1)
        ctx.save_for_backward(p, factor * units)
        return rounded(ctx, p * units, None, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        p, factor = ctx.saved_tensors
        return aten._softmax_backward_data(grad, p, -1, p.dtype).mul_(factor), None, None, None


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
        output: Output,
        first: int | None,
    ) -> tuple[Tensor, Tensor | None]:
        # Scaled parameters give the result in units of the output: no pass over it, and none over its gradient.
        gamma = (x.new_ones(x.shape[-1]) if gamma is None else gamma) / output_scale
        beta = None if beta is None else beta / output_scale
        v, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gamma, beta, epsilon)
        y, found = rounded(ctx, v, None, output)
        ctx.save_for_backward(keep(x, first), gamma, beta, mean, rstd, save_clip_mask(y, output), output_scale)
        ctx.output, ctx.first = output, first
        return y, found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        kept_x, gamma, beta, mean, rstd, saved, output_scale = ctx.saved_tensors
        grad, needed = apply_clip_mask(grad, saved, ctx.output), [*ctx.needs_input_grad[:3]]
        x = restore(kept_x, ctx.first)
        gx, g_gamma, g_beta = aten.native_layer_norm_backward(grad, x, x.shape[-1:], mean, rstd, gamma, beta, needed)
        for g in (g_gamma, g_beta):
            if g is not None:
                g.div_(output_scale)
        return gx, g_gamma, g_beta, None, None, None, None


matmul = _MatMul.apply
lookup = _Lookup.apply
softmax = _Softmax.apply
layer_norm = _LayerNorm.apply
add = _Add.apply
mul = _Mul.apply
