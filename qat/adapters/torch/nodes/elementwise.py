"""Nodes that compute element by element: addition, multiplication, minimum, maximum, ReLU6."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels

from .base import Node


class Add(Node):
    """Elementwise addition; the tensors broadcast."""

    keeps_inputs, has_clip_mask = False, True

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        ga, gb = self.inputs
        if not self.training:
            return self.runtime.add(a, b, (ga, gb, self.output), self.limits())
        ra, rb = (grid.scale_value / self.output.scale_value for grid in (ga, gb))
        if self.output.group.learned:
            return self.finish(kernels.scaled_sum(a, b, ra, rb))
        return self.noted(*kernels.add(a, b, ra, rb, self.asked))

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """Float addition."""
        return a + b


class Mul(Node):
    """Elementwise multiplication; the tensors broadcast."""

    keeps_inputs, keeps_bytes, has_clip_mask = False, True, True

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply and rescale."""
        ga, gb = self.inputs
        factor = ga.scale * gb.scale / self.output.scale
        if not self.training:
            return self.runtime.round_product(a * b * factor, self.output, self.limits())
        if self.output.group.learned:
            return self.finish(a * b * factor)
        return self.noted(*kernels.mul(a, b, factor, self.asked, self.byte_offsets))

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


class Maximum(Node):
    """The greater of two tensors of one scale; the tensors broadcast."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare integers: their order is that of the real values."""
        return torch.maximum(a, b)

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """The float maximum."""
        return torch.maximum(a, b)


class Relu6(Node):
    """A ReLU6 that no kernel absorbed."""

    def integer(self, x: Tensor) -> Tensor:
        """Clamp at the integer nearest to 6."""
        return x.clamp(0.0, min(self.output.integer_of(6.0), self.output.hi))

    def real(self, x: Tensor) -> Tensor:
        """The float ReLU6."""
        return F.relu6(x)
