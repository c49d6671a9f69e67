"""The node of a transposed convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .image_weight import as_image_weight
from .linear import StraightThroughConv


class ConvTranspose2d(StraightThroughConv):
    """conv_transpose2d, with bias and fused activation."""

    def program_layout(self, weight: Tensor) -> Tensor:
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
