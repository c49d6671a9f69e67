"""The node of bilinear up-sampling: a transposed convolution by fixed integers for each channel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from qat import numerics
from qat.adapters.torch.node import Node


class UpsampleBilinear2d(Node):
    """Bilinear up-sampling by whole factors, between the centres of pixels; input and output share one scale."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum exactly, divide, round as the kernel does; see :func:`qat.numerics.upsample_bilinear2d`."""
        factors: tuple[int, int] = self.attrs["factors"]
        taps, divisor, cut = numerics.bilinear(factors)
        channels = x.shape[1]
        weight = x.new_tensor(taps).expand(channels, 1, -1, -1)
        edges = F.pad(x, (1, 1, 1, 1), mode="replicate")
        total = F.conv_transpose2d(edges, weight, None, factors, cut, groups=channels)
        scale = self.output.scale
        return self.finish(total * ((scale * scale.new_tensor(1.0 / divisor)) / scale))

    def real(self, x: Tensor) -> Tensor:
        """The float up-sampling."""
        return F.interpolate(x, scale_factor=[float(f) for f in self.attrs["factors"]], mode="bilinear", align_corners=False)
