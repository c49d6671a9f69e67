"""What acts in training alone: dropout, stochastic depth, noise."""

from __future__ import annotations

from torch import Tensor, nn

from qat.adapters.torch.autograd import byte_kernels

from .activation_grid import Grid


class Acting(nn.Module):
    """A change of one tensor in training; the identity in evaluation.

    On the grid the results are integers that may lie beyond the limits, as those of a dropout that enlarges what it keeps do:
    the float model clips nothing there.
    """

    def __init__(self, act: nn.Module, grid: Grid | None) -> None:
        super().__init__()
        self.act = act
        self.grids = () if grid is None else (grid,)

    def forward(self, x: Tensor) -> Tensor:
        """Change a tensor, that of the grid in its real values."""
        if not self.training:
            return x
        scale = self.grids[0].scale if self.grids and self.grids[0].on_grid else None
        if scale is None:
            changed: Tensor = self.act(x)
            return changed
        v = self.act(byte_kernels.as_captured(x) * scale) / scale
        return v + (v.round() - v).detach()


class WithinLimits(nn.Module):
    """The way of changed values into a kernel that looks its inputs up, and knows those within the limits alone."""

    def __init__(self, tensor: str, grid: Grid) -> None:
        super().__init__()
        self.tensor, self.grids = tensor, (grid,)

    def forward(self, x: Tensor) -> Tensor:
        """Clamp in training."""
        (grid,) = self.grids
        return x.clamp(grid.lo, grid.hi) if self.training and grid.on_grid else x
