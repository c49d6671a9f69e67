"""The node of masked scores; :mod:`qat.arithmetic.masks` says what their scale has to hold."""

from __future__ import annotations

import torch
from torch import Tensor

from qat.arithmetic import masks

from .base import Node


class Mask(Node):
    """The scores where the mask is positive, elsewhere the least integer."""

    def compute(self, x: Tensor, shown: Tensor) -> Tensor:
        """In calibration show the estimator what the scores' scale has to hold."""
        if not self.grids or self.output.on_grid or self.training:
            return super().compute(x, shown)
        if self.output.estimator is not None:
            scores, mask = (t.detach().cpu().numpy() for t in (x, shown))
            seen = masks.spread(scores, mask, self.attrs["reach"])
            self.output.estimate(torch.from_numpy(seen), self.planned.op.output)
        return self.real(x, shown)

    def integer(self, x: Tensor, shown: Tensor) -> Tensor:
        """Choose between integers; where the range is tracked it keeps room for hidden scores."""
        y = torch.where(shown > 0, x, self.output.lo)
        if self.tracks_output:
            with torch.no_grad():
                self.noted(y, _ends(y, shown, self.attrs["reach"] / self.output.scale))
        return y

    def real(self, x: Tensor, shown: Tensor) -> Tensor:
        """The scores in float."""
        return torch.where(shown > 0, x, self.attrs.get("hidden", masks.HIDDEN))


def _ends(y: Tensor, shown: Tensor, reach: Tensor) -> Tensor:
    """Return the extremes of :func:`qat.arithmetic.masks.spread`, of scores on the grid."""
    greatest = y.amax(-1, keepdim=True)
    some = (shown > 0).any(-1, keepdim=True)
    low = torch.where(some, greatest - reach, torch.inf).amin()
    return torch.stack([low.clamp(max=0.0), torch.where(some, greatest, -torch.inf).amax().clamp(min=0.0)])
