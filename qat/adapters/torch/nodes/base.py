"""The base of the integer-grid nodes: one ``nn.Module`` per kernel.

A node runs in float until its model is calibrated, then on the grid. Parameters are arguments, not members: they keep the
names that they have in the user's model, and a tied one is quantized where it is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.adapters.torch.autograd import functions as kernels
from qat.adapters.torch.autograd.learned_scales import requantize
from qat.arithmetic.range_estimators import RangeMode
from qat.errors import CalibrationError
from qat.planning.plan import PlannedOp

from .activation_grid import Grid


class Node(nn.Module):
    """One planned operator. ``grids`` are those of its inputs, then of its output, shared with its neighbours.

    An operator that the plan leaves float has no grids and always computes :meth:`real`.

    Attributes:
        keeps_inputs: whether the node, in training, keeps its inputs for the backward pass.
        marks: whether the node keeps of its output what ``kept`` says.
        kept: what it is to keep of its output, by what the readers do.
    """

    keeps_inputs = True
    marks = False

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__()
        self.planned = planned
        self.attrs: dict[str, Any] = dict(planned.op.attrs)
        # A tuple is no submodule: the model registers every grid once, in a place of its own.
        self.grids = grids
        self.kernels = kernels_name
        self.kept = kernels.Keep.VALUES

    @property
    def inputs(self) -> tuple[Grid, ...]:
        """The grids of the inputs."""
        return self.grids[:-1]

    @property
    def output(self) -> Grid:
        """The grid of the output."""
        return self.grids[-1]

    def forward(self, *args: Any) -> Tensor:
        """Compute on the grid once calibrated, else in float."""
        device = args[0].device.type
        if torch.is_autocast_enabled(device):
            # The accumulators need float32; what a float operator left in a narrower type is widened.
            with torch.autocast(device, enabled=False):
                return self.compute(*(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args))
        return self.compute(*args)

    def compute(self, *args: Any) -> Tensor:
        """What :meth:`forward` does, outside autocast."""
        if not self.grids:
            return activate(self.real(*args), self.planned.activation)
        if self.output.on_grid:
            return self.integer(*args)
        if self.training and self.output.mode is not RangeMode.CALIBRATING:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        y = activate(self.real(*args), self.planned.activation)
        self.output.estimate(y)
        return y

    def integer(self, *args: Any) -> Tensor:
        """The integer kernel."""
        raise NotImplementedError

    def real(self, *args: Any) -> Tensor:
        """The same operator in float, without its fused activation."""
        raise NotImplementedError

    def limits(self) -> tuple[float, float]:
        """Return the limits of the output on its grid: the type's, narrowed by the fused activation."""
        return narrowed(self.output, self.planned.activation)

    @property
    def keep(self) -> kernels.Keep:
        """What the node keeps of its output: while ranges are observed a reader's limits are not those that were clamped to."""
        return kernels.Keep.BYTES if self.kept is kernels.Keep.NOTHING and moving(self, self.output) else self.kept

    def byte(self) -> int | None:
        """Return the integer that a byte of zero stands for, where bytes hold the first input for sure.

        While ranges are observed they move between writer and reader, and the input may lie outside its grid's limits.
        """
        grid = self.inputs[0]
        return None if moving(self, grid) or grid.hi - grid.lo > 255 else int(grid.lo)

    def finish(self, v: Tensor) -> Tensor:
        """Observe unrounded grid values if asked to, then round and clamp with a straight-through gradient."""
        if self.output.group.learned and self.training:
            grid = self.output
            return requantize(v, grid.range, grid.step, (grid.lo, grid.hi), self.limits())
        self.observe(v)
        return kernels.round_clamp(v, *self.limits())

    def observe(self, v: Tensor) -> None:
        """Let the output's range follow ``v``, where training observes ranges."""
        if moving(self, self.output):
            activation = self.planned.activation
            low = 0.0 if activation else -float("inf")
            high = 6.0 / self.output.step if activation == "relu6" else float("inf")
            self.output.observe(v, low, high)

    def observer(self) -> Any:
        """The callback that shows a fused kernel's unrounded values to :meth:`observe`, or None."""
        return self.observe if moving(self, self.output) else None


def moving(node: nn.Module, grid: Grid) -> bool:
    """Return whether a grid's range follows the data while the node trains."""
    return node.training and grid.mode is RangeMode.TRACKING


def narrowed(grid: Grid, activation: str | None) -> tuple[float, float]:
    """Return a grid's limits, narrowed by an activation."""
    lo, hi = grid.lo, grid.hi
    if activation in ("relu", "relu6"):
        lo = max(lo, 0.0)
    if activation == "relu6":
        hi = min(hi, grid.integer_of(6.0))
    return lo, hi


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply a fused activation in float."""
    if activation == "relu":
        return F.relu(x)
    return F.relu6(x) if activation == "relu6" else x
