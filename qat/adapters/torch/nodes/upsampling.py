"""The nodes of bilinear up-sampling: by fixed integers, which are those of the runtime."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.arithmetic.accumulators import bilinear
from qat.arithmetic.upsampling import UNIT, neighbours
from qat.planning.plan import PlannedOp

from .activation_grid import Grid
from .base import Node


class UpsampleBilinear2d(Node):
    """Bilinear up-sampling by integer factors, between the centres of pixels; input and output share one scale.

    It is a transposed convolution by fixed integers for each channel.
    """

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


class ResizeBilinear2d(UpsampleBilinear2d):
    """The same operator as LiteRT's delegate computes it: shares of the neighbouring pixels in 2048ths, halves up."""

    def integer(self, x: Tensor) -> Tensor:
        """Sum, exactly where it is evaluated, and round; see :func:`qat.arithmetic.upsampling.by_shares`."""
        if self.training:
            return self.finish(self._between(x))
        return (self._between(x.double()) + 0.5).floor_().float().clamp_(*self.limits())

    def _between(self, x: Tensor) -> Tensor:
        """Return unrounded values. Those of float64 are exact: products of 8 by 22 bits."""
        for axis, factor in zip((2, 3), self.attrs["factors"], strict=True):
            before, after, share = (torch.from_numpy(places).to(x.device) for places in neighbours(x.shape[axis], factor))
            first, second = x.index_select(axis, before), x.index_select(axis, after)
            x = first + (second - first) * (share.to(x.dtype) / UNIT).view(-1, *[1] * (3 - axis))
        return x
