"""The borders of a region on the grid: float to integers, and integers to float."""

from __future__ import annotations

from math import inf

from torch import Tensor, nn

from qat.adapters.torch.autograd import byte_kernels
from qat.adapters.torch.autograd import functions as kernels
from qat.adapters.torch.autograd.extremes import extremes
from qat.adapters.torch.autograd.runtimes import RUNTIMES
from qat.arithmetic.range_estimators import RangeMode

from .activation_grid import Grid


class Quantize(nn.Module):
    """The entry of a region: float to the grid."""

    def __init__(self, tensor: str, grid: Grid, kernels_name: str) -> None:
        super().__init__()
        self.tensor, self.grids, self.kernels = tensor, (grid,), kernels_name

    def forward(self, x: Tensor) -> Tensor:
        """Return integers once calibrated."""
        (grid,) = self.grids
        if not grid.on_grid:
            grid.estimate(x, self.tensor)
            return x
        return quantize(x, grid, self.kernels, self.training and grid.mode is RangeMode.TRACKING)


def quantize(x: Tensor, grid: Grid, kernels_name: str, tracked: bool = False) -> Tensor:
    """Return ``x`` on a grid, as the runtime quantizes it.

    Where the range is ``tracked`` the extremes are noted.
    """
    return kernels.round_clamp(_in_units(x, grid, kernels_name, tracked), grid.lo, grid.hi)


def quantize_parameter(x: Tensor, grid: Grid, kernels_name: str, tracked: bool = False) -> Tensor:
    """Return a parameter on a grid, by :func:`quantize`, with the whole of its gradient.

    An activation at an end of its range has no gradient there. A parameter would never leave that end: one that starts at zero,
    whose range is zero, would not train at all.
    """
    v = _in_units(x, grid, kernels_name, tracked)
    on_grid = kernels.round_clamp(v, grid.lo, grid.hi)
    return on_grid if grid.group.learned else kernels.straight_through(v, on_grid)


def _in_units(x: Tensor, grid: Grid, kernels_name: str, tracked: bool) -> Tensor:
    """Return ``x`` in units of a grid, unrounded."""
    v = RUNTIMES[kernels_name].divide_by_scale(x, grid.scale)
    if tracked:
        grid.observe(extremes(v), (-inf, inf))
    return v


def fake_quantized(x: Tensor, grid: Grid, kernels_name: str) -> Tensor:
    """Return the real values on a grid that the runtime would hold in place of ``x``."""
    return quantize(x, grid, kernels_name) * grid.scale


class Dequantize(nn.Module):
    """The exit of a region: the grid to float."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grids = (grid,)

    def forward(self, x: Tensor) -> Tensor:
        """Return real values once calibrated."""
        (grid,) = self.grids
        if not grid.on_grid:
            return x
        real = byte_kernels.as_captured(x) * grid.scale
        # A rounded -0.3 is -0.0; the runtime's zero, of integers, has no sign, which atan2 and 1 / x would tell.
        return real if self.training else real + 0.0
