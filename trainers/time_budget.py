"""Training within a time: how it is written, and how many steps fit into it.

The steps' time is measured on the machine: that of the learning rates' trial, or of the first steps. The number of steps that
follows stands in the checkpoint, so that a resumed run has the same schedule. Should the time end before the steps do, since the
machine has become slower, training ends after the step in progress as if it had been the last.
"""

from __future__ import annotations

import re

from qat.errors import OptionError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: The share of the time that is planned for: what is left is for a machine that becomes slower.
_PLANNED = 0.9


def seconds_of(budget: str | float) -> float:
    """Return a time in seconds: a number of them, or ``90s``, ``10m``, ``1.5h``.

    Raises:
        OptionError: it is neither.

    Examples:
        >>> seconds_of("10m")
        600.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(budget).strip())
    seconds = 0.0 if found is None or isinstance(budget, bool) else float(found[1]) * _UNITS[found[2] or "s"]
    if seconds <= 0:
        raise OptionError("time_budget", f"time_budget is a time above zero: 90s, 10m, 1h or seconds, not {budget!r}")
    return seconds


def steps_within(seconds: float, step: float, evaluation: float, epoch: int) -> int:
    """Return how many steps fit into the seconds that are left; one at least.

    Args:
        seconds: that are left.
        step: the seconds that a step takes.
        evaluation: the seconds that an evaluation takes, of which there is one an epoch.
        epoch: the steps of an epoch.
    """
    planned = _PLANNED * seconds - evaluation
    return max(1, int(planned / (step + evaluation / epoch)))
