"""The base of the integer-grid nodes: one ``nn.Module`` per kernel.

A node runs in float until its model is calibrated, then on the grid. Parameters are arguments, not members: they keep the
names that they have in the user's model, and a tied one is quantized where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.adapters.torch.autograd import functions as kernels
from qat.adapters.torch.autograd.clip_mask import ClipMask, Output
from qat.adapters.torch.autograd.extremes import extremes
from qat.adapters.torch.autograd.learned_scales import requantize
from qat.adapters.torch.autograd.runtimes import RUNTIMES, Runtime
from qat.arithmetic.range_estimators import RangeMode
from qat.errors import CalibrationError
from qat.graph.kinds import bounds
from qat.planning.plan import PlannedOp
from qat.planning.rounding import Rounding

from .activation_grid import Grid
from .kept import Kept, can_keep
from .quantize import fake_quantized

T = TypeVar("T")


class Node(nn.Module):
    """One planned operator. ``grids`` are those of its inputs, then of its output, shared with its neighbours.

    An operator that the plan leaves float has no grids and always computes :meth:`real`, in evaluation :meth:`evaluated`.

    Attributes:
        keeps_inputs: whether the node, in training, keeps its inputs for the backward pass, in float32.
        keeps_bytes: whether it keeps their bytes.
        reads_acts: whether training can change an input to values beyond the grid's limits, as dropout does.
        has_clip_mask: whether the node asks ``clip_mask``; one that does not keeps its output.
        clip_mask: from what the node tells in its backward pass where its output was clipped; its readers decide.
    """

    keeps_inputs, keeps_bytes = True, False
    has_clip_mask = False
    reads_acts = False

    def __init__(self, planned: PlannedOp, grids: tuple[Grid, ...], kernels_name: str) -> None:
        super().__init__()
        self.planned = planned
        self.attrs: dict[str, Any] = dict(planned.op.attrs)
        # A tuple is no submodule: the model registers each grid once, with the module that writes to it first.
        self.grids = grids
        self.kernels = kernels_name
        self.clip_mask = ClipMask.OUTPUT
        self._kept = Kept()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what evaluation keeps would only take memory in training."""
        if mode:
            self._kept.forget()
        return super().train(mode)

    def kept(self, name: str, make: Callable[[], T], *sources: Tensor | None) -> T:
        """Return ``make()``, which follows from ``sources``: evaluation keeps it for the next batch while these are the same."""
        return self._kept.of(name, make, *sources) if can_keep(self, *sources) else make()

    @property
    def inputs(self) -> tuple[Grid, ...]:
        """The grids of the inputs."""
        return self.grids[:-1]

    @property
    def output(self) -> Grid:
        """The grid of the output."""
        return self.grids[-1]

    @property
    def runtime(self) -> Runtime:
        """The target's arithmetic on tensors."""
        return RUNTIMES[self.kernels]

    def forward(self, *args: Any) -> Tensor:
        """Compute on the grid once calibrated, else in float."""
        device = args[0].device.type
        if torch.is_autocast_enabled(device):
            # The accumulators need float32: a tensor that a float operator returned in a narrower type is converted.
            with torch.autocast(device, enabled=False):
                return self.compute(*(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args))
        return self.compute(*args)

    def compute(self, *args: Any) -> Tensor:
        """Compute as :meth:`forward`, outside autocast."""
        if not self.grids:
            tensors = (a for a in args if isinstance(a, Tensor))
            return activate((self.evaluated if can_keep(self, *tensors) else self.real)(*args), self.planned.activation)
        if self.output.on_grid:
            return self.integer(*args)
        if self.training and self.output.mode is not RangeMode.CALIBRATING:
            raise CalibrationError("the model is not calibrated: call qat.calibrate(model, samples) before training")
        y = activate(self.real(*args), self.planned.activation)
        self.output.estimate(self.seen(y), self.planned.op.output)
        return y

    def seen(self, y: Tensor) -> Tensor:
        """Return what the scale has to hold of a float result."""
        return y

    def integer(self, *args: Any) -> Tensor:
        """The integer kernel."""
        raise NotImplementedError

    def real(self, *args: Any) -> Tensor:
        """The same operator in float, without its fused activation."""
        raise NotImplementedError

    def evaluated(self, *args: Any) -> Tensor:
        """The same as the runtime computes an operator that stays float."""
        return self.real(*args)

    def simulated(self, rounding: Rounding, *args: Any) -> Tensor:
        """Compute in float, whether calibrated or not, with the roundings that are asked for."""
        y = activate(self.real(*args), self.planned.activation)
        return fake_quantized(y, self.output, self.kernels) if rounding.activation and self.grids else y

    def limits(self) -> tuple[float, float]:
        """Return the limits of the output on its grid: the type's, narrowed by the fused activation."""
        return narrowed(self.output, self.planned.activation)

    @property
    def asked(self) -> Output:
        """What the pass in progress asks of the output: one without gradients saves nothing."""
        clip_mask = self.clip_mask if torch.is_grad_enabled() else ClipMask.READERS
        keeps = clip_mask is not ClipMask.OUTPUT and torch.is_grad_enabled()
        return Output(self.limits(), clip_mask, self.tracks_output, self._first_of(self.output) if keeps else None)

    @property
    def byte_offset(self) -> int | None:
        """The integer that a byte of zero stands for, where bytes hold the first input; None where float32 does."""
        return None if self.training and self.reads_acts else self._first_of(self.inputs[0])

    @property
    def byte_offsets(self) -> tuple[int | None, ...]:
        """The same of each input, where it is kept for the backward pass."""
        floats = not torch.is_grad_enabled() or (self.training and self.reads_acts)
        return tuple(None if floats else self._first_of(grid) for grid in self.inputs)

    def _first_of(self, grid: Grid) -> int | None:
        """Return the integer that a byte of zero stands for, where bytes hold the tensors of a grid; None where float32 does.

        It does while the range is tracked: a NaN in the data then reaches the loss, and training says so. Bytes would hide it.
        """
        tracked = self.training and grid.mode is RangeMode.TRACKING
        return None if tracked or grid.hi - grid.lo > 255 else int(grid.lo)

    def finish(self, v: Tensor) -> Tensor:
        """Round and clamp unrounded grid values with a straight-through gradient; note their extremes where they are tracked."""
        grid = self.output
        if grid.group.learned and self.training:
            return requantize(v, grid.range, grid.scale_value, (grid.lo, grid.hi), self.limits())
        if self.tracks_output:
            self.observe(v)
        return kernels.rounded_output(v, self.asked)

    @property
    def tracks_output(self) -> bool:
        """Whether the output's range is tracked in the pass in progress."""
        return self.training and self.output.mode is RangeMode.TRACKING

    def observe(self, v: Tensor) -> None:
        """Note the extremes of unrounded grid values."""
        self.noted(v, extremes(v))

    def noted(self, y: Tensor, found: Tensor | None) -> Tensor:
        """Note the extremes that an autograd node found, if it did; return its output ``y``."""
        if found is not None:
            low, high = bounds(self.planned.activation)
            scale = self.output.scale_value
            self.output.observe(found, (-inf if low is None else low / scale, inf if high is None else high / scale))
        return y


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
