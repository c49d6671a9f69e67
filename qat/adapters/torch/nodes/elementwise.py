"""Nodes that compute element by element: addition, multiplication, and the ReLUs that no kernel absorbed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels
from qat.arithmetic import xnnpack
from qat.arithmetic.kernels import KERNELS

from .activation_grid import Grid
from .base import Node


class Add(Node):
    """Elementwise addition; the tensors broadcast."""

    keeps_inputs, has_clip_mask = False, True

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        ga, gb = self.inputs
        if not self.training:
            return _add(a, b, (ga, gb, self.output), *self.limits(), self.kernels)
        ra, rb = (grid.scale_value / self.output.scale_value for grid in (ga, gb))
        if self.output.group.learned:
            return self.finish((a * ra).add_(b, alpha=rb))
        return self.noted(*kernels.add(a, b, ra, rb, self.limits(), self.clip_mask, self.tracks_output))

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """Float addition."""
        return a + b


class Mul(Node):
    """Elementwise multiplication; the tensors broadcast."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply and rescale."""
        ga, gb = self.inputs
        v = a * b * (ga.scale * gb.scale / self.output.scale)
        if not self.training and self.kernels == "mlas":
            # The kernel rounds after it has added the zero point; see qat.arithmetic.mlas.mul.
            zero_point = self.output.zero_point
            return ((v + zero_point).round_() - zero_point).clamp_(*self.limits())
        return self.finish(v)

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """Float multiplication."""
        return a * b


class Minimum(Node):
    """The smaller of two tensors of one scale; the tensors broadcast."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare integers: their order is that of the real values."""
        return torch.minimum(a, b)

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """The float minimum."""
        return torch.minimum(a, b)


class Relu(Node):
    """A ReLU that no kernel absorbed; zero is 0 on the grid too."""

    def integer(self, x: Tensor) -> Tensor:
        """Clamp at 0."""
        return F.relu(x)

    def real(self, x: Tensor) -> Tensor:
        """The float ReLU."""
        return F.relu(x)


class Relu6(Node):
    """A ReLU6 that no kernel absorbed."""

    def integer(self, x: Tensor) -> Tensor:
        """Clamp at the integer nearest to 6."""
        return x.clamp(0.0, min(self.output.integer_of(6.0), self.output.hi))

    def real(self, x: Tensor) -> Tensor:
        """The float ReLU6."""
        return F.relu6(x)


def _add(a: Tensor, b: Tensor, grids: tuple[Grid, Grid, Grid], lo: float, hi: float, kernels: str) -> Tensor:
    """Return ``a + b`` on the third grid, exact in every bit; see :func:`qat.arithmetic.kernels.Kernels.add`.

    Training uses the float32 form of this formula, which differs in about one of 10^6 values by one.
    """
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
