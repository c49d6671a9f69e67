"""The activation scale that the nodes of one group share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from qat.arithmetic.encoding import Encoding, from_range
from qat.arithmetic.range_estimators import RangeEstimator, RangeMode
from qat.errors import CalibrationError
from qat.planning.plan import Group


class Grid(nn.Module):
    """The activation scale of one group of tensors. The range is the state; scale and zero point follow from it.

    Attributes:
        range: float32 (low, high); NaN until calibrated. A parameter where the recipe has it learned.
        scale, zero_point: float32 scalars, derived.
        step, lo, hi: the scale and the limits on the grid, ``qmin - zero_point`` and ``qmax - zero_point``, kept on the host
            too, so that a training step on a GPU never waits for it.
        mode: how the range is treated. ``TRACKING`` moves it as an exponential moving average of the batches' extremes.
        estimator: sees each float tensor of the group in calibration; None at any other time.
        trackable: whether training may move the range: not one that is learned, prescribed, or left some values out on purpose.
    """

    range: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, group: Group) -> None:
        super().__init__()
        self.group = group
        unknown = torch.full((2,), float("nan"))
        if group.learned:
            self.register_parameter("range", nn.Parameter(unknown))
        else:
            self.register_buffer("range", unknown)
        self.derived_from: tuple[int, int] | None = None
        self.derived: Encoding | None = None
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("zero_point", torch.zeros(()), persistent=False)
        self.step, self.lo, self.hi = 1.0, float(group.qmin), float(group.qmax)
        self.calibrated = False
        self.mode = RangeMode.FROZEN
        self.momentum = 0.1
        self.estimator: RangeEstimator | None = None
        self.trackable = group.follows(group.spec.estimator)

    @property
    def on_grid(self) -> bool:
        """Whether nodes compute on the grid: calibrated, and not calibrating at the moment.

        Every writer of the group asks this first, so here a learned range that an optimizer has moved becomes the scale.
        """
        if self.group.learned and self.calibrated and self.derived_from != self._state():
            self._derive()
        return self.calibrated and self.mode is not RangeMode.CALIBRATING

    @property
    def encoding(self) -> Encoding:
        """The encoding in NumPy, known to the host. Raises CalibrationError where there is none yet."""
        if not self.calibrated:
            raise CalibrationError(
                f"no range for '{self.group.name}': call qat.calibrate(model, samples) before training or exporting"
            )
        if self.group.learned and self.derived_from != self._state():
            self._derive()
        assert self.derived is not None
        return self.derived

    def set_range(self, low: float, high: float) -> None:
        """Set the range and derive scale and zero point, in NumPy's float32 like everywhere else."""
        with torch.no_grad():
            self.range.copy_(torch.tensor([low, high]))
        self._derive()

    def _state(self) -> tuple[int, int]:
        """Return which value the range holds: PyTorch counts a tensor's changes in place."""
        return id(self.range), self.range._version

    def _derive(self) -> None:
        self.calibrated = True
        self.derived_from = self._state()
        low, high = self.range.tolist()
        e = self.derived = from_range(low, high, self.group.qmin, self.group.qmax, self.group.symmetric)
        # New tensors: a kernel of the same step may have kept the old ones for its backward pass.
        self.scale = self.scale.new_tensor(float(e.scale))
        self.zero_point = self.zero_point.new_tensor(float(e.zero_point))
        self.step, self.lo, self.hi = float(e.scale), float(e.lo), float(e.hi)

    def allow_tracking(self, allowed: bool) -> None:
        """Say whether training may move the range."""
        self.trackable = allowed

    def track(self, tracking: bool) -> None:
        """Let training move the range, if it may, or freeze it."""
        self.mode = RangeMode.TRACKING if tracking and self.trackable else RangeMode.FROZEN

    def integer_of(self, x: float) -> float:
        """Return the integer nearest to a real value, as the runtimes compute an activation's limit."""
        return float(np.rint(np.float32(x) / np.float32(self.step)))

    def estimate(self, x: Tensor) -> None:
        """Show a float tensor to the calibration's estimator, if one is set."""
        if self.estimator is not None:
            self.estimator.update(x.detach().cpu().numpy())

    def observe(self, v: Tensor, low: float, high: float) -> None:
        """Move the range towards that of ``v``, unrounded grid values limited to ``[low, high]``."""
        with torch.no_grad():
            seen = _over_processes(torch.stack(v.aminmax())).clamp(low, high) * self.scale
            old = self.range.to(seen.dtype)
            moved = (old + self.momentum * (seen - old)).tolist()
        if all(map(math.isfinite, moved)):  # else the loss says so, and the range is what it was
            self.set_range(*moved)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.calibrated = bool(torch.isfinite(self.range).all())
        if self.calibrated:
            self._derive()


def _over_processes(extremes: Tensor) -> Tensor:
    """Return the least and the greatest value over all processes that train together, so that all hold the same scales."""
    if not (dist.is_available() and dist.is_initialized()):
        return extremes
    signs = extremes.new_tensor((-1.0, 1.0))  # the greatest of -low and of high: one exchange
    signed = extremes * signs
    dist.all_reduce(signed, dist.ReduceOp.MAX)
    return signed * signs
