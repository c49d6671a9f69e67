"""The node of LayerNorm; the arithmetic is that of :mod:`qat.arithmetic.layer_norm`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import functions as kernels
from qat.arithmetic.layer_norm import scaled_epsilon

from .base import Node
from .quantize import quantize


class LayerNorm(Node):
    """Normalization over the last axis."""

    has_clip_mask = True

    def integer(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        """In training compute PyTorch's LayerNorm of integers; else compute by sums of integers."""
        epsilon = scaled_epsilon(self.attrs["epsilon"], self.inputs[0].scale_value)
        if self.training:
            if self.output.group.learned:
                return self.finish(F.layer_norm(x, x.shape[-1:], gamma, beta, float(epsilon)) / self.output.scale)
            how = (float(epsilon), self.output.scale, self.limits(), self.clip_mask, self.tracks_output)
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
        return F.layer_norm(x, x.shape[-1:], gamma, beta, self.attrs["epsilon"])
