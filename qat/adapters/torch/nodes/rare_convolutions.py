"""The nodes of the rarer convolutions: transposed, and of volumes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from qat.adapters.torch.autograd.functions import straight_through
from qat.adapters.torch.capture.conv1d import as_image_weight

from .linear import Conv2d


class _Accumulated(Conv2d):
    """A convolution of PyTorch's own on integers: one scale for the filters of each output channel."""

    def integer(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Accumulate the integers of weight and bias, whose rounding lets the gradient pass, and rescale."""
        scale = self.weight_scale(weight, bias)
        bias_scale = scale * self.inputs[0].scale
        w = weight / scale.view(-1, *[1] * (weight.ndim - 1))
        w_int, b_int = straight_through(w, w.detach().round()), None
        if bias is not None:
            b = bias / bias_scale
            b_int = straight_through(b, b.detach().round())
        return self.finish(self.real(x, w_int, b_int) * (bias_scale / self.output.scale).view(-1, *[1] * (x.ndim - 2)))


class Conv3d(_Accumulated):
    """conv3d, with bias and fused activation."""

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float convolution."""
        padding = self.attrs["padding"]
        if any(first != last for first, last in padding):
            x, padding = F.pad(x, [side for both in reversed(padding) for side in both]), ((0, 0),) * 3
        window = (self.attrs["strides"], [first for first, _ in padding], self.attrs["dilations"])
        return F.conv3d(x, weight, bias, *window, self.attrs["groups"])


class ConvTranspose2d(_Accumulated):
    """conv_transpose2d, with bias and fused activation."""

    def laid(self, weight: Tensor) -> Tensor:
        """Return PyTorch's weight, [in, out / groups, h, w], as [out, in / groups, h, w]."""
        return _turned(as_image_weight(weight), self.attrs["groups"])

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float transposed convolution."""
        (top, bottom), (left, right) = self.attrs["padding"]
        weight = _turned(weight, self.attrs["groups"])
        extra = (top - bottom, left - right)
        return F.conv_transpose2d(x, weight, bias, self.attrs["strides"], (top, left), extra, self.attrs["groups"])


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Swap the first two axes of a weight within each group: its own inverse."""
    if groups == 1:
        return weight.transpose(0, 1)
    rows, columns, *kernel = weight.shape
    blocks = weight.reshape(groups, rows // groups, columns, *kernel).transpose(1, 2)
    return blocks.reshape(groups * columns, rows // groups, *kernel)
