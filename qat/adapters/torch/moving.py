"""Nodes that move integers without changing them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.node import Node


class Moving(Node):
    """Operators that move integers without changing them: one scale for inputs and output, the same code in float."""

    def integer(self, *tensors: Tensor) -> Tensor:
        """Move the integers."""
        return self.real(*tensors)


class MaxPool2d(Moving):
    """Max pooling; the grid's order is that of the real values."""

    def real(self, x: Tensor) -> Tensor:
        """Pool; padding never wins."""
        (top, bottom), (left, right) = self.attrs["padding"]
        if (top, left) != (bottom, right) or 2 * top > self.attrs["kernel"][0] or 2 * left > self.attrs["kernel"][1]:
            x = F.pad(x, (left, right, top, bottom), value=-float("inf"))
            return F.max_pool2d(x, self.attrs["kernel"], self.attrs["strides"])
        return F.max_pool2d(x, self.attrs["kernel"], self.attrs["strides"], (top, left))


class Relu(Moving):
    """A ReLU that no kernel absorbed."""

    def real(self, x: Tensor) -> Tensor:
        """Zero is 0 on the grid too."""
        return F.relu(x)


class Concat(Moving):
    """Concatenation of tensors that share one scale."""

    def real(self, *tensors: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat(tensors, self.attrs["axis"])


class Reshape(Moving):
    """Any change of shape that keeps the batch first."""

    def real(self, x: Tensor) -> Tensor:
        """Reshape."""
        return x.reshape(x.shape[0], *self.attrs["shape"][1:])


class Pad(Moving):
    """Spatial padding with zeros, which are 0 on the grid too."""

    def real(self, x: Tensor) -> Tensor:
        """Pad."""
        (top, bottom), (left, right) = self.attrs["padding"]
        return F.pad(x, (left, right, top, bottom))
