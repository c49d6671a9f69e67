"""The nodes of LayerNorm, GroupNorm and RMSNorm; the arithmetic is that of :mod:`qat.arithmetic.layer_norm`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels
from qat.arithmetic.layer_norm import SMALLEST_SQUARE, scaled_epsilon, scaled_least, smallest_square

from .base import Node
from .quantize import quantize


class LayerNorm(Node):
    """Normalization over the last axis."""

    keeps_inputs, keeps_bytes, has_clip_mask = False, True, True

    def integer(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """In training compute PyTorch's LayerNorm of integers; else compute by sums of integers."""
        epsilon = float(scaled_epsilon(self.attrs["epsilon"], self.inputs[0].scale_value))
        gamma, beta = _in_line(gamma), _in_line(beta)
        if self.training:
            if self.output.group.learned or self.uncentered:
                return self.finish(self._float(x, gamma, beta, epsilon) / self.output.scale)
            how = (epsilon, self.output.scale, self.asked, *self.byte_offsets)
            return self.noted(*kernels.layer_norm(x, gamma, beta, *how))
        y, deviation = _centred(x, self.inputs[0].zero_point, epsilon)
        return quantize(_affine((x if self.uncentered else y) / deviation, gamma, beta), self.output, self.kernels)

    def real(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """The float normalization."""
        return self._float(x, _in_line(gamma), _in_line(beta), self.attrs["epsilon"])

    @property
    def uncentered(self) -> bool:
        """Whether it only divides by the deviation."""
        return bool(self.attrs.get("uncentered", False))

    def _float(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float) -> Tensor:
        if self.uncentered:
            return _affine(x / (x.var(-1, correction=0, keepdim=True) + epsilon).sqrt(), gamma, beta)
        return F.layer_norm(x, x.shape[-1:], gamma, beta, epsilon)


class GroupNorm(Node):
    """Normalization over all axes but the batch, in groups of the channels."""

    def integer(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """In training compute PyTorch's GroupNorm of integers; else compute by sums of integers."""
        epsilon = float(scaled_epsilon(self.attrs["epsilon"], self.inputs[0].scale_value))
        if self.training:
            # Scaled parameters give the result in units of the output: no pass over it, and none over its gradient.
            scale = self.output.scale
            gamma = (x.new_ones(x.shape[self.attrs["axis"]]) if gamma is None else gamma) / scale
            return self.finish(self._normalized(x, gamma, None if beta is None else beta / scale, epsilon))
        first = x.movedim(self.attrs["axis"], 1)
        rows = first.reshape(len(x), self.attrs["groups"], -1)
        y, deviation = _centred(rows, self.inputs[0].zero_point, epsilon)
        along = [-1, *[1] * (x.ndim - 2)]
        gamma, beta = (None if p is None else p.reshape(along) for p in (gamma, beta))
        y = _affine((y / deviation).reshape(first.shape), gamma, beta)
        return quantize(y.movedim(1, self.attrs["axis"]), self.output, self.kernels)

    def real(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """The float normalization."""
        return self._normalized(x, gamma, beta, self.attrs["epsilon"])

    def _normalized(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float) -> Tensor:
        groups, axis = self.attrs["groups"], self.attrs["axis"]
        return F.group_norm(x.movedim(axis, 1), groups, _in_line(gamma), _in_line(beta), epsilon).movedim(1, axis)


class RmsNorm(Node):
    """Division by the root of the mean square over the last axis."""

    def integer(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        """In training differentiate the float formula; else compute by sums of integers."""
        scale = self.inputs[0].scale_value
        epsilon, least = (float(f(self.attrs[n], scale)) for f, n in ((scaled_epsilon, "epsilon"), (scaled_least, "least")))
        if self.training:
            return self.finish(_divided(x, gamma, epsilon, least, smallest_square(x.shape[-1])) / self.output.scale)
        squares = (x * x).sum(-1, keepdim=True, dtype=torch.float64).float()
        root = (squares / torch.full_like(squares, x.shape[-1]) + epsilon).double().sqrt().float()
        y = x / root.clamp_min(least)
        return quantize(y if gamma is None else y * _in_line(gamma), self.output, self.kernels)

    def real(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        """The float normalization."""
        return _divided(x, gamma, self.attrs["epsilon"], max(self.attrs["least"], 1e-30))


def _divided(x: Tensor, gamma: Tensor | None, epsilon: float, least: float, square: float = SMALLEST_SQUARE) -> Tensor:
    # A row of zeros has the quotient zero whatever divides it, but the root of zero has no gradient.
    y = x / (x.square().mean(-1, keepdim=True) + epsilon).clamp_min(square).sqrt().clamp_min(least)
    return y if gamma is None else y * _in_line(gamma)


def _centred(x: Tensor, zero_point: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return ``x - mean`` and ``sqrt(variance + epsilon)`` over the last axis, as :mod:`qat.arithmetic.layer_norm` does."""
    q = x + zero_point
    total = q.sum(-1, keepdim=True, dtype=torch.float64).float()
    n = torch.full_like(total, q.shape[-1])  # PyTorch may turn a division by a number into a multiplication
    mean = total / n
    c = mean.round()
    d, rest = q - c, mean - c
    squares = (d * d).sum(-1, keepdim=True, dtype=torch.float64).float()
    variance = squares / n - rest * rest + epsilon
    return q - mean, variance.double().sqrt().float()  # PyTorch's float32 square root (MKL) is sometimes off by one bit


def _affine(y: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def _in_line(parameter: Any) -> Any:
    """Return a parameter of the normalized axes as one axis: a model that writes its LayerNorm out may hold it in any shape."""
    return parameter if parameter is None or parameter.ndim == 1 else parameter.reshape(-1)
