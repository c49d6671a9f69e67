"""The node of a convolution of volumes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .linear import StraightThroughConv


class Conv3d(StraightThroughConv):
    """conv3d, with bias and fused activation."""

    def real(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The float convolution."""
        padding = self.attrs["padding"]
        if any(first != last for first, last in padding):
            x, padding = F.pad(x, [side for both in reversed(padding) for side in both]), ((0, 0),) * 3
        window = (self.attrs["strides"], [first for first, _ in padding], self.attrs["dilations"])
        return F.conv3d(x, weight, bias, *window, self.attrs["groups"])
