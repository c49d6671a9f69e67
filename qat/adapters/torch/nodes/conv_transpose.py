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
        if weight.shape[2:].numel() == 1 and max(self.attrs["strides"]) > 1:
            return self._of_pixels(x, weight, bias)
        extra = (top - bottom, left - right)
        return F.conv_transpose2d(x, weight, bias, self.attrs["strides"], (top, left), extra, self.attrs["groups"])

    def _of_pixels(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A window of one pixel: each is computed and laid apart, as PyTorch's own gradient of its weight may crash.

        Without AVX512 oneDNN writes beyond its memory there: see :mod:`qat.adapters.torch.autograd.conv_gradients`.
        """
        (down, right), ((top, bottom), (left, end)) = self.attrs["strides"], self.attrs["padding"]
        pixels = F.conv_transpose2d(x, weight, groups=self.attrs["groups"])
        apart = F.pad(pixels[:, :, :, None, :, None], (0, right - 1, 0, 0, 0, down - 1)).flatten(4, 5).flatten(2, 3)
        y = F.pad(apart, (-left, 1 - right - end, -top, 1 - down - bottom))
        return y if bias is None else y + bias.view(-1, 1, 1)


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Swap the first two axes of a weight within each group: its own inverse."""
    if groups == 1:
        return weight.transpose(0, 1)
    rows, columns, *kernel = weight.shape
    blocks = weight.reshape(groups, rows // groups, columns, *kernel).transpose(1, 2)
    return blocks.reshape(groups * columns, rows // groups, *kernel)
