"""The nodes of LayerNorm and RMSNorm; the arithmetic is that of :mod:`qat.arithmetic.layer_norm`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels
from qat.arithmetic.layer_norm import scaled_epsilon, scaled_least

from .base import Node
from .quantize import quantize


class LayerNorm(Node):
    """Normalization over the last axis."""

    has_clip_mask = True

    def integer(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """In training compute PyTorch's LayerNorm of integers; else compute by sums of integers."""
        epsilon = scaled_epsilon(self.attrs["epsilon"], self.inputs[0].scale_value)
        gamma, beta = _in_line(gamma), _in_line(beta)
        if self.training:
            if self.output.group.learned:
                return self.finish(F.layer_norm(x, x.shape[-1:], gamma, beta, float(epsilon)) / self.output.scale)
            how = (float(epsilon), self.output.scale, self.limits(), self.saved_clip_mask, self.tracks_output)
            return self.noted(*kernels.layer_norm(x, gamma, beta, *how))
        q = x + self.inputs[0].zero_point
        total = q.sum(-1, keepdim=True)
        n = torch.full_like(total, q.shape[-1])  # PyTorch may turn a division by a number into a multiplication
        c = (total / n).round()
        d, rest = q - c, (total - c * n) / n
        squares = (d * d).sum(-1, keepdim=True, dtype=torch.float64).float()
        variance = squares / n - rest * rest + float(epsilon)
        y = (d - rest) / variance.double().sqrt().float()  # PyTorch's float32 square root (MKL) is sometimes off by one bit
        y = y if gamma is None else y * gamma
        return quantize(y if beta is None else y + beta, self.output, self.kernels)

    def real(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """The float normalization."""
        return F.layer_norm(x, x.shape[-1:], _in_line(gamma), _in_line(beta), self.attrs["epsilon"])


class RmsNorm(Node):
    """Division by the root of the mean square over the last axis."""

    def integer(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        """In training differentiate the float formula; else compute by sums of integers."""
        scale = self.inputs[0].scale_value
        epsilon, least = (float(f(self.attrs[n], scale)) for f, n in ((scaled_epsilon, "epsilon"), (scaled_least, "least")))
        if self.training:
            return self.finish(_normalized(x, gamma, epsilon, least) / self.output.scale)
        squares = (x * x).sum(-1, keepdim=True, dtype=torch.float64).float()
        root = (squares / torch.full_like(squares, x.shape[-1]) + epsilon).double().sqrt().float()
        y = x / root.clamp_min(least)
        return quantize(y if gamma is None else y * _in_line(gamma), self.output, self.kernels)

    def real(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        """The float normalization."""
        return _normalized(x, gamma, self.attrs["epsilon"], max(self.attrs["least"], 1e-30))


def _normalized(x: Tensor, gamma: Tensor | None, epsilon: float, least: float) -> Tensor:
    y = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt().clamp_min(least)
    return y if gamma is None else y * _in_line(gamma)


def _in_line(parameter: Any) -> Any:
    """Return a parameter of the normalized axes as one axis: a model that writes its LayerNorm out may hold it in any shape."""
    return parameter if parameter is None or parameter.ndim == 1 else parameter.reshape(-1)
