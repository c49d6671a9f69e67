"""The node of bilinear up-sampling: a transposed convolution by fixed integers for each channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.arithmetic.accumulators import bilinear
from qat.planning.plan import PlannedOp

from .activation_grid import Grid
from .base import Node


class UpsampleBilinear2d(Node):
    """Bilinear up-sampling by integer factors, between the centres of pixels; input and output share one scale."""

    weight: Tensor
    share: Tensor

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__(planned, grids, kernels_name)
        taps, divisor, self.cut = bilinear(self.attrs["factors"])
        self.register_buffer("weight", torch.from_numpy(taps).float(), persistent=False)
        self.register_buffer("share", torch.ones(()) / divisor, persistent=False)

    def integer(self, x: Tensor) -> Tensor:
        """Sum exactly, divide, round as the kernel does; see :func:`qat.arithmetic.mlas.upsample_bilinear2d`."""
        channels, scale = x.shape[1], self.output.scale
        edges = F.pad(x, (1, 1, 1, 1), mode="replicate")
        weight = self.weight.expand(channels, 1, -1, -1)
        total = F.conv_transpose2d(edges, weight, None, self.attrs["factors"], self.cut, groups=channels)
        return self.finish(total * ((scale * self.share) / scale))

    def real(self, x: Tensor) -> Tensor:
        """The float up-sampling."""
        return F.interpolate(x, scale_factor=[float(f) for f in self.attrs["factors"]], mode="bilinear", align_corners=False)
