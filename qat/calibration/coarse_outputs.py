"""Outputs whose own grid makes much of their error: 256 values are few for coordinates, whatever the layers before compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qat.typing import PreparedModel

#: The share of an output's squared error from which its grid is worth being avoided.
COARSE = 0.25


def coarse_outputs(model: PreparedModel, got: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Return the outputs of which the rounding to their grid makes at least :data:`COARSE` of the squared error.

    The rounding to a grid of step ``s`` has the mean square ``s^2 / 12`` (Widrow & Kollár 2008, section 1.1).

    Args:
        model: calibrated.
        got: its outputs for some samples, in their order.
        real: the float model's outputs for the same samples.
    """
    plan, found = model.plan, []
    for name, a, b in zip(plan.graph.outputs, got, real, strict=True):
        if name not in plan.group_of:
            continue
        step = float(model.grids[plan.group_of[name]].encoding.scale)
        error = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
        if error > 0 and step**2 / 12 >= COARSE * error:
            found.append(name)
    return tuple(found)
