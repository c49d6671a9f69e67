"""ONNX Runtime's kernels in PyTorch, exact in every bit; :mod:`qat.arithmetic.mlas` has the formulas and their sources."""

from __future__ import annotations

from torch import Tensor

from qat.arithmetic import mlas
from qat.arithmetic.encoding import Encoding

from .clip_mask import Limits
from .functions import Encoded, round_clamp


def divide_by_scale(x: Tensor, scale: Tensor) -> Tensor:
    """Return real values in units of a scale, not yet rounded."""
    return x / scale


def divide_by_count(total: Tensor, count: Tensor, grid: Encoded) -> Tensor:
    """Return the averages of sums, not yet rounded. The kernel is a convolution with ones, which rescales."""
    return total * ((grid.scale * (1.0 / count)) / grid.scale)


def requantize(acc: Tensor, multiplier: float, limits: Limits) -> Tensor:
    """Return the accumulator of a product of two activations times a multiplier, on the output's grid."""
    return (acc.float() * multiplier).round_().clamp_(*limits)


def add(a: Tensor, b: Tensor, grids: tuple[Encoded, Encoded, Encoded], limits: Limits) -> Tensor:
    """Return ``a + b`` on the third grid."""
    ga, gb, gy = grids
    ra, rb = ga.scale / gy.scale, gb.scale / gy.scale
    fixed = gy.zero_point - _fma(ga.zero_point, ra, rb * gb.zero_point)
    v = _fma(a + ga.zero_point, ra, _fma(b + gb.zero_point, rb, fixed))
    return (v.round_() - gy.zero_point).clamp_(*limits)


def round_product(v: Tensor, grid: Encoded, limits: Limits) -> Tensor:
    """Return a rescaled product, element by element, on its grid. The kernel rounds after it has added the zero point."""
    return ((v + grid.zero_point).round_() - grid.zero_point).clamp_(*limits)


def mean(total: Tensor, count: int, grids: tuple[Encoded, Encoded], limits: Limits) -> Tensor:
    """Return the mean of ``count`` values of the first grid, of which ``total`` is the sum, on the second."""
    gx, gy = grids
    return round_clamp(total * (gx.scale / (gy.scale * count)), *limits)


def avg_pool2d(total: Tensor, count: Tensor, grid: Encoded, limits: Limits, padded: bool) -> Tensor:
    """Return the averages of windows of ``count`` values, of which ``total`` are the sums; one scale in and out."""
    if padded:
        return (((total + count * grid.zero_point) / count).round_() - grid.zero_point).clamp_(*limits)
    return round_clamp(divide_by_count(total, count, grid), *limits)


def probabilities(exponentials: Tensor, total: Tensor, encoding: Encoding) -> Tensor:
    """Return the integers of a softmax from the exponentials and their sum."""
    return (exponentials.double() * mlas.whole_units(encoding) / total.double()).round_().clamp_(max=encoding.hi).float()


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return float32 ``a * b + c`` with one rounding; ``a`` is an 8-bit integer."""
    return (a.double() * b.double() + c.double()).float()
