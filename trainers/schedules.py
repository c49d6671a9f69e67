"""Learning-rate schedules: functions from the share of the steps that is done, 0 to 1, to a share of the peak."""

from __future__ import annotations

import math
from collections.abc import Callable

#: The end of a decaying schedule, as a share of the peak.
FLOOR = 0.01


def cosine(done: float) -> float:
    """Half a cosine from the peak to a hundredth of it (Loshchilov & Hutter 2017, without restarts)."""
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


def linear(done: float) -> float:
    """A straight line from the peak to a hundredth of it."""
    return 1 - (1 - FLOOR) * done


def constant(done: float) -> float:
    """The peak throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine, "linear": linear, "constant": constant}


def rate(schedule: str, peak: float, step: int, total: int, warmup_steps: int) -> float:
    """Return the learning rate of a step: a straight rise over the first ``warmup_steps``, then the schedule over the rest."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(total - warmup_steps, 1)
    return peak * SCHEDULES[schedule](min(done, 1.0))
