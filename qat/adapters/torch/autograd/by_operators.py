"""The passes of a kernel around its products, by operators of PyTorch; :mod:`.passes` chooses between these and compiled ones."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.arithmetic.grid import BIAS_LIMIT

aten = torch.ops.aten

#: The smallest and the largest integer of an output.
Limits = tuple[float, float]

#: Below this many weights the second reduction costs more than the copy.
_FEW = 2**15
SMALLEST_SCALE = float(torch.finfo(torch.float32).tiny) * 2.0**40


def requantize(
    acc: Tensor, multiplier: Tensor | None, limits: Limits, axis: int, first: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return ``clamp(round(acc * multiplier), *limits)`` in the memory of an accumulator, and the same in bytes.

    Args:
        acc: the accumulator.
        multiplier: of each channel, or one of all; None is 1.
        limits: of the output.
        axis: of the channels: 1 or -1.
        first: the integer that a byte of zero stands for; None: no bytes.
    """
    if multiplier is not None:
        acc.mul_(multiplier.view(-1, 1, 1) if axis == 1 else multiplier)
    y = acc.round_().clamp_(*limits)
    return y, None if first is None else to_bytes(y, first)


def round_clamp(v: Tensor, limits: Limits) -> Tensor:
    """Return ``clamp(round(v), *limits)``."""
    return v.round().clamp_(*limits)


def product(a: Tensor, b: Tensor, factor: Tensor, limits: Limits) -> Tensor:
    """Return ``clamp(round(a * b * factor), *limits)``; the tensors broadcast, the factor is a scalar."""
    return (a * b).mul_(factor).round_().clamp_(*limits)


def product_gradients(grad: Tensor, a: Tensor, b: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``a`` and ``b``."""
    grad = grad * factor
    return (grad * b).sum_to_size(a.shape), (grad * a).sum_to_size(b.shape)


def look_up(index: Tensor, table: Tensor) -> Tensor:
    """Return ``table[index]`` in the index's layout in memory."""
    last = index.ndim == 4 and index.is_contiguous(memory_format=torch.channels_last)
    rows = index.permute(0, 2, 3, 1) if last else index
    found = table.index_select(0, rows.to(torch.int32).flatten()).view(rows.shape)
    return found.permute(0, 3, 1, 2) if last else found


def look_up_times(index: Tensor, table: Tensor, grad: Tensor) -> Tensor:
    """Return ``table[index] * grad``."""
    return look_up(index, table).mul_(grad)


def to_bytes(x: Tensor, lo: int) -> Tensor:
    """Return ``x - lo`` in uint8, for integers in ``[lo, lo + 255]``; the layout in memory stays."""
    return _wrapped(x, lo) if x.is_cpu and _WRAPS and not torch.compiler.is_compiling() else (x - lo).to(torch.uint8)


def _wrapped(x: Tensor, lo: int) -> Tensor:
    found = x.to(torch.int8).view(torch.uint8)
    return found.add_(-lo) if lo else found


#: Whether a conversion from float32 to int8 keeps the low byte of a number out of range: no standard promises that.
_WRAPS = all(
    torch.equal(_wrapped(torch.arange(256.0) + lo, lo).float(), torch.arange(256.0)) for lo in (0, -1, -127, -128, -129, -255)
)


def from_bytes(kept: Tensor, lo: int) -> Tensor:
    """Return the integers of :func:`to_bytes` in float32; the layout in memory stays."""
    x = kept.float()
    return x.add_(lo) if lo else x


def mask_by_bytes(grad: Tensor, saved: Tensor, limits: Limits) -> Tensor:
    """Return the gradient where a byte is strictly within limits, else 0."""
    index = saved.float()
    return where_within(grad, index, limits, out=index)


def where_within(grad: Tensor, x: Tensor, limits: Limits, out: Tensor | None = None) -> Tensor:
    """Return the gradient where ``x`` is strictly within limits, else 0; ``out`` may be written.

    A compiler has the result of ``hardtanh_backward`` lie in memory as ``x`` does, and the operator lets it lie as the gradient.
    """
    found: Tensor
    if torch.compiler.is_compiling():
        found = torch.where((x <= limits[0]) | (x >= limits[1]), 0.0, grad)
    elif out is None:
        found = aten.hardtanh_backward(grad, x, *limits)
    else:
        found = aten.hardtanh_backward.grad_input(grad, x, *limits, grad_input=out)
    return found


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
    scale = (peak / qmax).clamp_min_(SMALLEST_SCALE)
    if bias is not None:
        floor = bias.detach().abs().div_(input_scale * bias_limit)
        scale = torch.maximum(scale, floor if per_channel else floor.amax())
    return scale if per_channel else scale.expand(weight.shape[0])


@torch.no_grad()
def weight_integers(
    weight: Tensor, bias: Tensor | None, scales: tuple[Tensor, Tensor], qmax: int, per_channel: bool, bias_limit: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return what a kernel computes with.

    Args:
        weight: float32 [channels, ...].
        bias: float32 [channels], or None.
        scales: of input and output.
        qmax: the largest integer of a weight.
        per_channel: whether each channel has a scale of its own.
        bias_limit: the largest integer of a bias.

    Returns:
        The scale of each channel's weights; the weight in int8; the bias's integers in float32; the accumulator's multipliers.
    """
    scale = weight_scale(weight, bias, scales[0], qmax, per_channel, bias_limit)
    bias_scale = scale * scales[0]
    w_int = rounded_weight(weight, scale, None).to(torch.int8)
    return scale, w_int, None if bias is None else (bias / bias_scale).round_(), bias_scale / scales[1]


def rounded_weight(weight: Tensor, scale: Tensor, factor: Tensor | None) -> Tensor:
    """Return a weight's integers, float32 in its layout in memory, times a factor of each channel if there is one."""
    along = (-1, *[1] * (weight.ndim - 1))
    found = (weight / scale.view(along)).round_()
    return found if factor is None else found.mul_(factor.view(along))
