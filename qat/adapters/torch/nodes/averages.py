"""Nodes that average: exact sums, rescaled."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .base import Node


class Mean(Node):
    """The mean over the spatial axes: an exact sum, rescaled."""

    keeps_inputs = False

    def integer(self, x: Tensor) -> Tensor:
        """Sum and rescale by ``s_x / (s_y * count)``."""
        axes = self.attrs["axes"]
        count = math.prod(x.shape[axis] for axis in axes)
        total = x.sum(axes, keepdim=self.attrs["keepdims"])
        gx, gy = self.grids
        if not self.training:
            return self.runtime.mean(total, count, (gx, gy), self.limits())
        return self.finish(total * (gx.scale / (gy.scale * count)))

    def real(self, x: Tensor) -> Tensor:
        """The float mean."""
        return x.mean(self.attrs["axes"], keepdim=self.attrs["keepdims"])


class AvgPool2d(Node):
    """Average pooling over the elements inside the image; input and output share one scale."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum exactly, divide, round as the kernel does."""
        total, count = self._sums(x)
        if not self.training:
            return self.runtime.avg_pool2d(total, count, self.output, self.limits(), any(map(any, self.attrs["padding"])))
        return self.finish(self.runtime.divide_by_count(total, count, self.output))

    def real(self, x: Tensor) -> Tensor:
        """The float average."""
        if self.attrs["padding"] == ((0, 0), (0, 0)):  # the form that has a counterpart in TensorFlow
            return F.avg_pool2d(x, self.attrs["kernel"], self.attrs["strides"])
        total, count = self._sums(x)
        return total / count

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (top, bottom), (left, right) = self.attrs["padding"]
        ones = F.pad(x.new_ones((1, 1, *x.shape[2:])), (left, right, top, bottom))
        x = F.pad(x, (left, right, top, bottom))
        window: dict[str, Any] = {"kernel_size": self.attrs["kernel"], "stride": self.attrs["strides"], "divisor_override": 1}
        return F.avg_pool2d(x, **window), F.avg_pool2d(ones, **window)
