"""Operators with float inputs and outputs, of which the weight alone is stored in another form.

The weight is rounded to the values that the artifact holds. In dynamic mode the activation is rounded to the grid that the
runtime will choose. Both have straight-through gradients.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qat.adapters.torch.autograd import dynamic
from qat.adapters.torch.autograd.by_operators import weight_scale
from qat.adapters.torch.autograd.functions import straight_through
from qat.arithmetic.dynamic import range_axes
from qat.graph.kinds import KINDS
from qat.planning.plan import PlannedOp
from qat.planning.rounding import Rounding

from .base import Node, activate
from .image_weight import as_image_weight


class StoredWeight(Node):
    """conv2d, depthwise_conv2d or dense in one of :data:`qat.planning.modes.STORED`."""

    def __init__(self, planned: PlannedOp, operator: Node) -> None:
        super().__init__(planned, (), planned.kernels)
        self.operator = operator

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute with the weight in the program's layout."""
        return super().compute(x, self.program_layout(weight), bias)

    def program_layout(self, weight: Tensor) -> Tensor:
        """Return the parameter in the program's layout."""
        return as_image_weight(weight)

    def integer(self, *args: Any) -> Tensor:
        """Compute in float: there is no grid."""
        return self.real(*args)

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The operator on the weight as it is stored."""
        if self.planned.mode != "dynamic":
            return self.operator.real(x, self.kept("rounded", lambda: self.rounded(weight), weight), bias)
        w, scale = self.kept("quantized", lambda: self.quantized(weight), weight)
        x_int, x_scale = self._on_grid(x, weight)
        channels = (-1,) if self.planned.op.kind == "dense" else (-1, *[1] * (x.ndim - 2))
        acc = self.operator.real(x_int, w, None)
        offset = None if bias is None else bias.view(channels)
        return dynamic.dequantize_accumulator(acc, x_scale, scale.view(channels), offset, self.kernels)

    def simulated(self, rounding: Rounding, *args: Any) -> Tensor:
        """Compute in float, with the weight as it is stored or not, and in dynamic mode the input on a grid or not."""
        x, weight, *bias = args
        weight = self.program_layout(weight)
        if rounding.activation and self.planned.mode == "dynamic":
            x_int, x_scale = self._on_grid(x, weight)
            x = x_int * x_scale
        if rounding.weight:
            weight = self.rounded(weight)
        return activate(self.operator.real(x, weight, *bias), self.planned.activation)

    def _on_grid(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the integers of an input, less their zero point, on the grid that the runtime chooses, and their scale."""
        attrs, spatial = self.planned.op.attrs, bool(KINDS[self.planned.op.kind].spatial)
        axes = range_axes(spatial, attrs.get("strides", ()), self.kernels, x.shape, weight.shape[2:], channel_axis=1)
        return dynamic.on_grid(x, axes, self.kernels)

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the real values of the stored weight."""
        stored, scale = self.quantized(weight)
        return stored * _along_weight(scale, stored)

    def quantized(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stored weight, in float32, and the scale of each output channel, of shape (channels,)."""
        spec = self.planned.weight
        if spec is None:
            return straight_through(weight, weight.detach().half().float()), weight.new_ones(weight.shape[0])
        scale = self.weight_scale(weight)
        v = weight / _along_weight(scale, weight)
        return straight_through(v, v.detach().round()), scale

    def weight_scale(self, weight: Tensor, _bias: Tensor | None = None) -> Tensor:
        """Return the scale of each output channel of integers; a bias stays float."""
        per_channel = self.planned.weight is not None and self.planned.weight.granularity == "channel"
        return weight_scale(weight, None, weight.new_ones(()), self.planned.qmax, per_channel)


def _along_weight(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))
