"""Nodes with parameters: convolutions, fully connected layers, and a BatchNorm that could not be folded."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd import by_operators, linear
from qat.adapters.torch.autograd.functions import straight_through
from qat.adapters.torch.autograd.tflite import halves_away, halves_up
from qat.arithmetic.grid import BIAS_LIMIT
from qat.planning.rounding import Rounding

from .base import Node
from .image_weight import as_image_weight
from .kept import can_keep


class Conv2d(Node):
    """conv2d and depthwise_conv2d, with bias and fused activation.

    Attributes:
        bias_limit: the largest integer of a bias, in grid units.
    """

    keeps_inputs, keeps_bytes, has_clip_mask = False, True, True
    bias_limit: float = BIAS_LIMIT

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute with the weight in the program's layout."""
        return super().compute(x, self.program_layout(weight), bias)

    def program_layout(self, weight: Tensor) -> Tensor:
        """Return the parameter in the program's layout; the weight of a conv1d gets an axis of size 1."""
        return as_image_weight(weight)

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """One autograd node from the float weight to the output's integers."""
        (top, bottom), (left, right) = self.attrs["padding"]
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        else:
            padding = (top, left)
        geometry = (self.attrs["strides"], padding, self.attrs["dilations"], self.attrs["groups"])
        if self.planned.kernels.startswith("builtin") and not self.training:
            scale, w_int, b_int = self.rounded(weight, bias)
            return self.requantize_builtin(F.conv2d(x, w_int, b_int, *geometry), scale)
        if can_keep(self, weight, bias):
            return linear.evaluated_conv2d(x, self.integers(weight, bias), self.limits(), geometry, self.byte_offset)
        how = (self.asked, self.byte_offset)
        return self.noted(*linear.conv2d(x, weight, bias, self.integers(weight, bias), self.scales, how, geometry))

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
        rounded = halves_up if self.planned.kernels == "builtin" else halves_away
        return rounded(acc, multiplier.view(-1, 1, 1)).clamp_(*self.limits())

    def weight_scale(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the weight's scale for each output channel."""
        how = (self.planned.qmax, self.per_channel, self.bias_limit)
        return by_operators.weight_scale(weight, bias, self.inputs[0].scale, *how)

    @property
    def per_channel(self) -> bool:
        """Whether each output channel has a scale of its own."""
        spec = self.planned.weight
        assert spec is not None
        return spec.granularity == "channel"

    @property
    def scales(self) -> tuple[Tensor, Tensor]:
        """The scales of input and output."""
        return self.inputs[0].scale, self.output.scale

    def integers(self, weight: Tensor, bias: Tensor | None) -> linear.WeightIntegers:
        """Return what the kernel computes with, besides its input."""

        def make() -> linear.WeightIntegers:
            how = (self.planned.qmax, self.per_channel, self.bias_limit)
            return linear.weight_integers(weight, bias, self.scales, *how)

        return self.kept("integers", make, weight, bias, *self.scales)

    def rounded(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the weight's scale for each output channel, and the integers of weight and bias in float32."""

        def make() -> tuple[Tensor, Tensor, Tensor | None]:
            scale = self.weight_scale(weight, bias)
            return scale, *self.quantized(weight, bias, scale)

        return self.kept("rounded", make, *self.sources(weight, bias))

    def sources(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return what :meth:`rounded` follows from."""
        return weight, bias, self.inputs[0].scale

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers, as the kernel computes them."""
        w_int = (weight / scale.view(-1, *[1] * (weight.ndim - 1))).round_()
        return w_int, None if bias is None else (bias / (scale * self.inputs[0].scale)).round_()


class Dense(Conv2d):
    """A fully connected layer on the last axis, with bias and fused activation."""

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """One autograd node from the float weight to the output's integers."""
        if can_keep(self, weight, bias):
            return linear.evaluated_dense(x, self.integers(weight, bias), self.limits(), self.byte_offset)
        how = (self.asked, self.byte_offset)
        return self.noted(*linear.dense(x, weight, bias, self.integers(weight, bias), self.scales, how))

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float layer."""
        return F.linear(x, weight, bias)


class StraightThroughConv(Conv2d):
    """A convolution without a fused autograd node: PyTorch's operator on integers, with straight-through rounding."""

    keeps_inputs, keeps_bytes, has_clip_mask = True, False, False

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Accumulate the integers of input, weight and bias, and rescale."""
        scale, w_int, b_int = self.rounded(weight, bias)
        multiplier = scale * self.inputs[0].scale / self.output.scale
        return self.finish(self.real(x, w_int, b_int) * multiplier.view(-1, *[1] * (x.ndim - 2)))

    def quantized(self, weight: Tensor, bias: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weight's and the bias's integers with straight-through gradients."""
        w = weight / scale.view(-1, *[1] * (weight.ndim - 1))
        w_int = straight_through(w, w.detach().round())
        if bias is None:
            return w_int, None
        b = bias / (scale * self.inputs[0].scale)
        return w_int, straight_through(b, b.detach().round())


class BatchNorm(Node):
    """A BatchNorm that could not be folded: it stays float, with its running statistics."""

    def real(
        self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, variance: Tensor
    ) -> Tensor:  # fmt: skip
        """Normalize with the running statistics."""
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, self.attrs["epsilon"])
