"""The activation scale that the nodes of one group share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qat.adapters.torch.autograd.clip_mask import Limits
from qat.arithmetic.encoding import Encoding
from qat.arithmetic.range_estimators import RangeEstimator, RangeMode, Spans
from qat.errors import CalibrationError
from qat.planning.plan import Group


class Grid(nn.Module):
    """The activation scale of one group of tensors. Its state is the range and whether that may move; the scale follows from it.

    Attributes:
        range: float32 (low, high); NaN until calibrated. A parameter where the recipe has it learned.
        trackable: whether training may move the range: not one that is learned, prescribed, or left some values out on purpose.
        scale, zero_point: float32 scalars, derived from the range.
        scale_value, lo, hi, host_range: the scale, the limits on the grid (``qmin - zero_point`` and ``qmax - zero_point``) and
            the range as numbers on the host, so that a training step on a GPU never waits for it.
        mode: how the range is treated.
        estimator: sees each float tensor of the group in calibration; None at any other time.
        spans: the extremes of each of these tensors in the calibration in progress.
        extremes: of the training pass in progress: (least, greatest) of each tensor of the group, and the limits to clip them to.
    """

    range: Tensor
    trackable: Tensor
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
        self.register_buffer("trackable", torch.zeros((), dtype=torch.bool))
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.register_buffer("zero_point", torch.zeros(()), persistent=False)
        self.scale_value, self.lo, self.hi = 1.0, float(group.qmin), float(group.qmax)
        self.host_range = (float("nan"), float("nan"))
        self.calibrated = False
        self.mode = RangeMode.FROZEN
        self.estimator: RangeEstimator | None = None
        self.spans = Spans()
        self.extremes: list[tuple[Tensor, Limits]] = []
        self._derived_from: tuple[int, int] | None = None
        self._derived: Encoding | None = None
        self.allow_tracking(group.follows(group.spec.estimator))

    # --- the range and what follows from it ---

    @property
    def on_grid(self) -> bool:
        """Whether nodes compute on the grid: calibrated, and not calibrating at the moment.

        Every writer of the group asks this first, so here a learned range that an optimizer has moved becomes the scale.
        """
        if self.group.learned and self.calibrated and self._derived_from != self._state_of_range():
            self._derive()
        return self.calibrated and self.mode is not RangeMode.CALIBRATING

    @property
    def encoding(self) -> Encoding:
        """The encoding in NumPy, known to the host. Raises CalibrationError where there is none yet."""
        if not self.calibrated:
            raise CalibrationError(
                f"no range for '{self.group.name}': call qat.calibrate(model, samples) before training or exporting"
            )
        if self.group.learned and self._derived_from != self._state_of_range():
            self._derive()
        assert self._derived is not None
        return self._derived

    def set_range(self, low: float, high: float) -> None:
        """Set the range, and derive scale, zero point and limits."""
        with torch.no_grad():
            self.range.copy_(torch.tensor([low, high]))
        self._derive()

    def take(self, low: float, high: float, encoding: Encoding, scale: Tensor, zero_point: Tensor) -> None:
        """Take what follows from the range: numbers of the host, and new tensors on the device.

        New ones, since a kernel of the same step may have kept the old ones for its backward pass.
        """
        self.scale, self.zero_point = scale, zero_point
        self.scale_value, self.lo, self.hi = float(encoding.scale), float(encoding.lo), float(encoding.hi)
        self.host_range, self.calibrated = (low, high), True
        self._derived, self._derived_from = encoding, self._state_of_range()

    def encoding_of(self, low: float, high: float) -> Encoding:
        """Return the encoding of a range, by NumPy's float32 as everywhere else."""
        return self.group.encoding(low, high)

    def _derive(self) -> None:
        low, high = self.range.tolist()
        encoding = self.encoding_of(low, high)
        scale, zero_point = (self.scale.new_tensor(float(value)) for value in (encoding.scale, encoding.zero_point))
        self.take(low, high, encoding, scale, zero_point)

    def _state_of_range(self) -> tuple[int, int]:
        """Return which value the range holds: PyTorch counts a tensor's changes in place."""
        return id(self.range), self.range._version

    def integer_of(self, x: float) -> float:
        """Return the integer nearest to a real value, as the runtimes compute an activation's limit."""
        return float(np.rint(np.float32(x) / np.float32(self.scale_value)))

    # --- calibration and range tracking ---

    def estimate(self, x: Tensor, tensor: str) -> None:
        """Show a float tensor, by its name, to the calibration's estimator, if one is set."""
        if self.estimator is not None and x.numel():
            values = self.group.within_bounds(x.detach().cpu().numpy())
            self.estimator.update(values)
            self.spans.see(tensor, values)

    def allow_tracking(self, allowed: bool) -> None:
        """Say whether training may move the range."""
        self.trackable.fill_(allowed)
        self._trackable = allowed

    def track(self, tracking: bool) -> None:
        """Let training move the range, if it may, or freeze it; forget the extremes of a pass that was not finished."""
        self.extremes = []
        self.mode = RangeMode.TRACKING if tracking and self._trackable else RangeMode.FROZEN

    def observe(self, extremes: Tensor, limits: Limits) -> None:
        """Note the least and the greatest of unrounded grid values; :class:`RangeTracker` clips them to ``limits``."""
        low, high = self.group.bounds
        least = limits[0] if low is None else max(limits[0], low / self.scale_value)
        self.extremes.append((extremes, (least, limits[1] if high is None else min(limits[1], high / self.scale_value))))

    def take_extremes(self) -> list[tuple[Tensor, Limits]]:
        """Return what was noted since the last call."""
        noted, self.extremes = self.extremes, []
        return noted

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A state of version 0.1 has no flag: that of the recipe's estimator is a good guess.
        state_dict = {prefix + "trackable": self.trackable, **state_dict}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._trackable = bool(self.trackable)
        self.calibrated = bool(torch.isfinite(self.range).all())
        if self.calibrated:
            self._derive()
