"""Nodes that average: exact sums, rescaled."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Node


class Mean(Node):
    """The mean over the spatial axes: an exact sum, rescaled."""

    keeps_inputs = False

    def integer(self, x: Tensor) -> Tensor:
        """Sum and rescale by ``s_x / (s_y * count)``."""
        axes = self.attrs["axes"]
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        total = x.sum(axes, keepdim=self.attrs["keepdims"])
        if not self.training and self.kernels == "xnnpack":
            # The zero points come in after the multiplication; see qat.arithmetic.xnnpack.mean.
            scale = (self.inputs[0].scale / self.output.scale) * (1 / torch.tensor(float(count), device=x.device))
            offset, zero_point = self.inputs[0].zero_point * count, self.output.zero_point
            v = (total + offset) * scale + (zero_point - offset * scale)
            return (v.round_() - zero_point).clamp_(*self.limits())
        return self.finish(total * (self.inputs[0].scale / (self.output.scale * count)))

    def real(self, x: Tensor) -> Tensor:
        """The float mean."""
        return x.mean(self.attrs["axes"], keepdim=self.attrs["keepdims"])


class AvgPool2d(Node):
    """Average pooling over the elements inside the image; input and output share one scale."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum exactly, divide, round as the kernel does; see :func:`qat.arithmetic.tflite.avg_pool2d`."""
        total, count = self._sums(x)
        if self.kernels == "mlas":
            grid = self.output
            return self.finish(total * ((grid.scale * (1.0 / count)) / grid.scale))
        if self.training:
            return self.finish(total / count)
        raw = total + count * self.output.zero_point
        mean = torch.trunc((raw + torch.copysign((count / 2).trunc(), raw)) / count)
        return (mean - self.output.zero_point).clamp(*self.limits())

    def real(self, x: Tensor) -> Tensor:
        """The float average."""
        if self.attrs["padding"] == ((0, 0), (0, 0)):  # in the form that TensorFlow has a counterpart of
            return F.avg_pool2d(x, self.attrs["kernel"], self.attrs["strides"])
        total, count = self._sums(x)
        return total / count

    def _sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (top, bottom), (left, right) = self.attrs["padding"]
        ones = F.pad(x.new_ones((1, 1, *x.shape[2:])), (left, right, top, bottom))
        x = F.pad(x, (left, right, top, bottom))
        window: dict[str, Any] = {"kernel_size": self.attrs["kernel"], "stride": self.attrs["strides"], "divisor_override": 1}
        return F.avg_pool2d(x, **window), F.avg_pool2d(ones, **window)
