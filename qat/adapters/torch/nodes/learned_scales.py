"""Nodes with a weight whose scale is learned; :mod:`qat.adapters.torch.autograd.learned_scales` has the arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.adapters.torch.autograd import learned_scales as learned
from qat.arithmetic.grid import BIAS_LIMIT, f32
from qat.arithmetic.range_estimators import weight_step

from .activation_grid import Grid
from .linear import Conv2d, Dense


class LearnedConv2d(Conv2d):
    """conv2d and depthwise_conv2d with a learned weight scale, a learned output range, or both.

    Attributes:
        weight_step: the weight's scales, one an output channel, or one for all; None where the largest magnitude decides.
    """

    keeps_inputs, keeps_bytes, has_clip_mask = True, False, False
    weight_step: nn.Parameter | None

    def __init__(self, planned: Any, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__(planned, grids, kernels_name)
        self.register_parameter("weight_step", None)

    def start(self, weight: np.ndarray) -> None:
        """Set the scale that training starts from: that of the least squared error."""
        spec = self.planned.weight
        assert spec is not None
        if spec.learned:
            step = weight_step(weight, self.planned.qmax, 0 if spec.granularity == "channel" else None)
            self.weight_step = nn.Parameter(torch.from_numpy(step))

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute the kernel in three autograd nodes, so that each rounding has a gradient of its own."""
        scale, w_int, b_int = self.rounded(weight, bias)
        if self.planned.kernels.startswith("builtin") and not self.training:
            return self.requantize_builtin(self.real(x, w_int, b_int), scale)
        return self.finish(self.real(x, w_int, b_int) * self.along(scale * self.inputs[0].scale / self.output.scale))

    def sources(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return what the integers follow from."""
        return *super().sources(weight, bias), self.weight_step

    def along(self, channels: Tensor) -> Tensor:
        """Lay one value an output channel along the accumulator's axes."""
        return channels.view(-1, 1, 1)

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the learned scale for each output channel, no smaller than the bias needs."""
        if self.weight_step is None:
            return super().weight_scale(weight, bias)
        scale = self.weight_step.detach().clamp_min(float(np.finfo(f32).tiny * 2.0**40)).expand(len(weight))
        if bias is None:
            return scale
        floor = bias.detach().abs() / (self.inputs[0].scale * BIAS_LIMIT)
        return torch.maximum(scale, floor if len(self.weight_step) > 1 else floor.amax())

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers with straight-through gradients."""
        step = scale if self.weight_step is None else self.weight_step
        w_int = learned.quantize_weight(weight, step, scale, self.planned.qmax)
        if bias is None:
            return w_int, None
        bias_scale = scale * self.inputs[0].scale
        return w_int, learned.round_through(bias / bias_scale)


class LearnedDense(LearnedConv2d, Dense):
    """A fully connected layer with a learned weight scale, a learned output range, or both."""

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """As the convolution."""
        return LearnedConv2d.integer(self, x, weight, bias)

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float layer."""
        return F.linear(x, weight, bias)

    def along(self, channels: Tensor) -> Tensor:
        """The channels are the last axis."""
        return channels
