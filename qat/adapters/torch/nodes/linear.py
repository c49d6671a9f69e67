"""Nodes with parameters: convolutions, fully connected layers, and a BatchNorm that could not be folded."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import linear
from qat.adapters.torch.autograd.functions import straight_through
from qat.adapters.torch.autograd.tflite import halves_up
from qat.planning.rounding import Rounding

from .base import Node
from .image_weight import as_image_weight


class Conv2d(Node):
    """conv2d and depthwise_conv2d, with bias and fused activation."""

    has_clip_mask = True

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute with the weight in the program's layout."""
        return super().compute(x, self.program_layout(weight), bias)

    def program_layout(self, weight: Tensor) -> Tensor:
        """Return the parameter in the program's layout; the weight of a conv1d gets an axis of size 1."""
        return as_image_weight(weight)

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """One autograd node from the float weight to the output's integers."""
        scale = self.weight_scale(weight, bias)
        (top, bottom), (left, right) = self.attrs["padding"]
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        else:
            padding = (top, left)
        geometry = (self.attrs["strides"], padding, self.attrs["dilations"], self.attrs["groups"])
        if self.planned.kernels == "builtin" and not self.training:
            w_int, b_int = self.quantized(weight, bias, scale)
            return self.requantize_builtin(F.conv2d(x, w_int, b_int, *geometry), scale)
        x_scale, y_scale = self.inputs[0].scale, self.output.scale
        how = (self.limits(), self.saved_clip_mask, geometry, self.tracks_output, self.byte_offset)
        return self.noted(*linear.conv2d(x, weight, bias, scale, x_scale, y_scale, *how))

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float convolution."""
        (top, bottom), (left, right) = self.attrs["padding"]
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, weight, bias, self.attrs["strides"], 0, self.attrs["dilations"], self.attrs["groups"])

    def simulated(self, rounding: Rounding, *args: Any) -> Tensor:
        """Compute in float, with the weight in the program's layout, rounded or not."""
        x, weight, *rest = args
        weight = self.program_layout(weight)
        if rounding.weight and self.planned.weight is not None:
            weight = self.rounded_weight(weight, *rest)
        return super().simulated(rounding, x, weight, *rest)

    def rounded_weight(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the real values of the weight's integers, in the program's layout."""
        scale = self.weight_scale(weight, bias)
        return self.quantized(weight, None, scale)[0] * scale.view(-1, *[1] * (weight.ndim - 1))

    def requantize_builtin(self, acc: Tensor, scale: Tensor) -> Tensor:
        """Requantize an accumulator as TFLite's optimized kernel, which runs the convolutions that the delegate does not take."""
        multiplier = self.inputs[0].scale.double() * scale.double() / self.output.scale.double()
        return halves_up(acc, multiplier.view(-1, 1, 1)).clamp_(*self.limits())

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the weight's scale for each output channel."""
        spec = self.planned.weight
        assert spec is not None
        return linear.weight_scale(
            weight, bias, self.inputs[0].scale, self.planned.qmax, spec.granularity == "channel"
        )  # fmt: skip

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers, as the kernel computes them."""
        w_int = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round_()
        return w_int, None if bias is None else (bias / (scale * self.inputs[0].scale)).round_()


class Dense(Conv2d):
    """A fully connected layer on the last axis, with bias and fused activation. It keeps its input in bytes."""

    keeps_inputs = False

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """One autograd node from the float weight to the output's integers."""
        scale = self.weight_scale(weight, bias)
        x_scale, y_scale = self.inputs[0].scale, self.output.scale
        how = (self.limits(), self.saved_clip_mask, self.tracks_output, self.byte_offset)
        return self.noted(*linear.dense(x, weight, bias, scale, x_scale, y_scale, *how))

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float layer."""
        return F.linear(x, weight, bias)


class StraightThroughConv(Conv2d):
    """A convolution without a fused autograd node: PyTorch's operator on integers, with straight-through rounding."""

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Accumulate the integers of input, weight and bias, and rescale."""
        scale = self.weight_scale(weight, bias)
        bias_scale = scale * self.inputs[0].scale
        w = weight / scale.view(-1, *[1] * (weight.ndim - 1))
        w_int, b_int = straight_through(w, w.detach().round()), None
        if bias is not None:
            b = bias / bias_scale
            b_int = straight_through(b, b.detach().round())
        return self.finish(self.real(x, w_int, b_int) * (bias_scale / self.output.scale).view(-1, *[1] * (x.ndim - 2)))


class BatchNorm(Node):
    """A BatchNorm that could not be folded: it stays float, with its running statistics."""

    def real(
        self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor
    ) -> Tensor:  # fmt: skip
        """Normalize with the running statistics."""
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, self.attrs["epsilon"])
