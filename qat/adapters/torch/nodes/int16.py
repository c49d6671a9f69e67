"""Nodes of 16-bit activations: they train as those of 8 bits do, and evaluate exact sums by :mod:`qat.arithmetic.int16`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qat.arithmetic import int16
from qat.graph.kinds import KINDS

from .averages import Mean
from .base import Node
from .elementwise import Add, Mul
from .linear import Conv2d, Dense


class Int16Conv2d(Conv2d):
    """conv2d and depthwise_conv2d. A bias has a larger limit than with 8-bit activations."""

    bias_limit = float(int16.BIAS_LIMIT)

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Accumulate exactly in float64 when evaluated."""
        if self.training:
            return super().integer(x, weight, bias)
        return self.exact(x, weight, bias, (-1, 1, 1))

    def exact(self, x: Tensor, weight: Tensor, bias: Tensor | None, channels: tuple[int, ...]) -> Tensor:
        """Return the kernel's integers; ``channels`` lays one value an output channel along the accumulator's axes."""
        scale, w_int, b_int = self.rounded(weight, bias)
        acc = self.real(x.double(), w_int.double(), None if b_int is None else b_int.double())
        multiplier = self.inputs[0].scale.double() * scale.double() / self.output.scale.double()
        requantize = int16.requantize_conv if KINDS[self.planned.op.kind].spatial else int16.requantize_dense
        return _by_numpy(lambda a, m: requantize(a, m, *self.limits()), acc, multiplier.view(channels))


class Int16Dense(Int16Conv2d, Dense):
    """A fully connected layer on the last axis."""

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Accumulate exactly in float64 when evaluated."""
        return Dense.integer(self, x, weight, bias) if self.training else self.exact(x, weight, bias, (-1,))

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float layer."""
        return Dense.real(self, x, weight, bias)


class Int16Add(Add):
    """Elementwise addition."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Rescale both inputs to the output's grid and add."""
        if self.training:
            return super().integer(a, b)
        ea, eb, ey = _encodings(self)
        return _by_numpy(lambda x, y: int16.add(x, y, ea, eb, ey, *self.limits()), a, b)


class Int16Mul(Mul):
    """Elementwise multiplication."""

    def integer(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply and rescale."""
        if self.training:
            return super().integer(a, b)
        ea, eb, ey = _encodings(self)
        return _by_numpy(lambda x, y: int16.mul(x, y, ea, eb, ey, *self.limits()), a, b)


class Int16Mean(Mean):
    """The mean over the spatial axes."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum and rescale."""
        if self.training:
            return super().integer(x)
        ex, ey = _encodings(self)
        return _by_numpy(lambda v: int16.mean(v, self.attrs["axes"], ex, ey, self.attrs["keepdims"]), x)


def _encodings(node: Node) -> tuple[Any, ...]:
    return tuple(grid.encoding for grid in node.grids)


def _by_numpy(function: Callable[..., np.ndarray], *tensors: Tensor) -> Tensor:
    return torch.from_numpy(function(*(t.detach().cpu().numpy() for t in tensors))).to(tensors[0].device)
