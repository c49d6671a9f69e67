"""Range tracking: the extremes that a training pass shows of its activations, and the update of all ranges at its end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from qat.arithmetic.range_estimators import RangeMode

from .activation_grid import Grid

#: The weight of a pass in the exponential moving average of the extremes (Jacob et al. 2018, section 3.1).
MOMENTUM = 0.1


class RangeTracker(nn.Module):
    """The last module of a prepared model. After a training pass it moves the ranges, all of them at once.

    Until then every operator of the pass reads the scale that its input was written with.
    """

    def __init__(self, grids: Iterable[Grid]) -> None:
        super().__init__()
        # A tuple is no submodule: the model registers each grid once, with the module that writes to it first.
        self.grids = tuple(grids)

    def forward(self) -> None:
        """Move the ranges, if the pass was one of training and some of them are tracked."""
        if self.training and any(grid.mode is RangeMode.TRACKING for grid in self.grids):
            self._move()

    @torch.compiler.disable  # the host derives the scales: it waits for the device once a pass
    @torch.no_grad()
    def _move(self) -> None:
        """Move each range towards the extremes seen of it, and derive scale, zero point and limits."""
        seen = {grid: grid.take_extremes() for grid in self.grids}
        grids = [grid for grid, found in seen.items() if found]
        if not grids:
            return
        found = [one for grid in grids for one in seen[grid]]
        extremes = _over_processes(torch.stack([values for values, _ in found])).cpu().numpy()
        extremes = np.clip(extremes.T, *np.array([limits for _, limits in found], np.float32).T).astype(np.float32)
        # Tensors of one scale count as one.
        starts = np.cumsum([0, *(len(seen[grid]) for grid in grids)])[:-1]
        low, high = np.minimum.reduceat(extremes[0], starts), np.maximum.reduceat(extremes[1], starts)
        scales = np.array([grid.encoding.scale for grid in grids], np.float32)
        old = np.array([grid.host_range for grid in grids], np.float32)
        moved = old + np.float32(MOMENTUM) * (np.stack([low, high], 1) * scales[:, None] - old)
        finite = np.flatnonzero(np.isfinite(moved).all(1))  # any other range stays, and the loss shows the fault
        _set_ranges([grids[i] for i in finite], moved[finite])


def _set_ranges(grids: list[Grid], ranges: np.ndarray) -> None:
    """Set the ranges of grids, float32 [grids, 2], by one transfer to their device."""
    if not grids:
        return
    lows_highs = torch.from_numpy(ranges).to(grids[0].range.dtype).tolist()
    encodings = [grid.encoding_of(low, high) for grid, (low, high) in zip(grids, lows_highs, strict=True)]
    derived = [[low, high, float(e.scale), float(e.zero_point)] for (low, high), e in zip(lows_highs, encodings, strict=True)]
    tensors = torch.tensor(derived, dtype=torch.float32, device=grids[0].scale.device)
    for grid, (low, high), encoding, of_grid in zip(grids, lows_highs, encodings, tensors, strict=True):
        grid.range.copy_(of_grid[:2])
        grid.take(low, high, encoding, of_grid[2], of_grid[3])


def _over_processes(extremes: Tensor) -> Tensor:
    """Return the extremes, [tensors, 2], over all processes that train together, so that all hold the same scales."""
    if not (dist.is_available() and dist.is_initialized()):
        return extremes
    signs = extremes.new_tensor((-1.0, 1.0))  # the greatest of -low and of high: one exchange
    signed = extremes * signs
    dist.all_reduce(signed, dist.ReduceOp.MAX)
    return signed * signs
