"""TFLite's own kernels in PyTorch, exact in every bit; :mod:`qat.arithmetic.tflite` has the formulas and their sources."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.arithmetic import tflite
from qat.arithmetic.attention import PROBABILITY, PROBABILITY_16
from qat.arithmetic.encoding import Encoding

from .clip_mask import Limits
from .functions import Encoded, round_clamp
from .mlas import divide_by_scale as divide_by_scale
from .mlas import mean as mean


def divide_by_count(total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
    """Return the averages of sums, not yet rounded."""
    return total / count


def requantize(acc: Tensor, multiplier: float, limits: Limits) -> Tensor:
    """Return the accumulator of a product of two activations times a multiplier, on the output's grid."""
    return halves_away(acc, multiplier).clamp_(*limits)


def add(a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
    """Return ``a + b`` on the third grid, by the NumPy reference: it is rare."""
    ea, eb, ey = (grid.encoding for grid in grids)
    ia, ib = (x.detach().cpu().numpy() for x in (a, b))
    return torch.from_numpy(tflite.add(ia, ib, ea, eb, ey, *limits)).to(a.device)


def round_product(v: Tensor, grid: Encoded, limits: Limits) -> Tensor:
    """Return a rescaled product, element by element, on its grid."""
    return round_clamp(v, *limits)


def avg_pool2d(total: Tensor, count: Tensor, grid: Encoded, limits: Limits, padded: bool) -> Tensor:
    """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""
    raw = total + count * grid.zero_point
    mean = torch.trunc((raw + torch.copysign((count / 2).trunc(), raw)) / count)
    return (mean - grid.zero_point).clamp_(*limits)


def probabilities(exponentials: Tensor, total: Tensor, encoding: Encoding) -> Tensor:
    """Return the integers of a softmax from the exponentials and their sum."""
    fine = tflite.is_fine(encoding)
    p = exponentials * (1 / (total * (PROBABILITY_16 if fine else PROBABILITY)))
    p = (p.double() + 0.5).floor_().clamp_(max=2**15 - 1 if fine else encoding.hi)
    return halves_away(p, PROBABILITY_16 / float(encoding.scale)).clamp_(max=encoding.hi) if fine else p.float()


def halves_away(acc: Tensor, multiplier: Tensor | float) -> Tensor:
    """Return ``acc * multiplier``, halves away from zero, as TFLite's reference kernels round."""
    mantissa, shift = _quantized_multiplier(torch.as_tensor(multiplier, dtype=torch.float64, device=acc.device))
    acc = acc.long()
    left, right = shift.clamp(min=0), (-shift).clamp(min=0)
    # A negative product is nudged by one less than a positive one.
    high = (((acc.abs() << left) * mantissa + (1 << 30) - (acc < 0).long()) >> 31) + ((torch.ones_like(right) << right) >> 1)
    return (acc.sign() * (high >> right)).float()


def halves_up(acc: Tensor, multiplier: Tensor) -> Tensor:
    """Return ``acc * multiplier``, halves up, as TFLite's optimized kernels round."""
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
