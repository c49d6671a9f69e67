"""The goal of a search: how much may be lost, how long the search may take, and whether figures say that the goal is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qat.errors import ConfigError, OptionError
from qat.report.decision import SIGNIFICANT, shown_p
from qat.trainers.metric import Metric
from qat.trainers.time_budget import seconds_of

#: ``reached``: beyond doubt. ``likely``: no loss is seen, and the samples are too few to show more. ``unsure``: the interval
#: holds the limit. ``missed``: the loss is above the limit beyond doubt.
Verdict = Literal["reached", "likely", "unsure", "missed"]

#: The verdicts at which a search stops.
GOOD: tuple[Verdict, ...] = ("reached", "likely")


@dataclass(frozen=True)
class Figures:
    """An artifact against the float model, on the same samples.

    Attributes:
        metric: its name.
        score: the artifact's.
        reference: the float model's.
        delta: ``score`` less ``reference``.
        low, high: the 95 % interval of ``delta``; None where there is none.
        p: McNemar's, or that of a paired bootstrap; None where there is none.
        sqnr: of the outputs, in dB; None where they are equal or cannot be compared.
        samples: their number.
    """

    metric: str
    score: float
    reference: float
    delta: float
    low: float | None
    high: float | None
    p: float | None
    sqnr: float | None
    samples: int


@dataclass(frozen=True)
class Goal:
    """What a search is for.

    Attributes:
        max_drop: the most that may be lost: percentage points of a share, else percent of the float model's value.
        budget: in seconds.

    Raises:
        ConfigError: ``max_drop`` is no number from 0 to below 100.
    """

    max_drop: float = 0.5
    budget: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 100:
            raise ConfigError(f"--max-drop is a number from 0 to below 100, in percentage points, not {self.max_drop:g}")

    @classmethod
    def of(cls, max_drop: float, budget: str) -> Goal:
        """Return a goal, its budget given as ``30m``, ``90s``, ``1h`` or seconds.

        Raises:
            ConfigError: the budget is none of these.
        """
        try:
            return cls(max_drop, seconds_of(budget))
        except OptionError as error:
            raise ConfigError(f"--budget is a time above zero, 90s, 30m or 1h, not '{budget}'") from error

    def limit(self, metric: Metric, reference: float) -> float:
        """Return the most that may be lost, in the metric's unit."""
        return self.max_drop if in_points(metric) else self.max_drop / 100 * abs(reference)

    def said(self, metric: Metric, reference: float) -> str:
        """Return the goal in words."""
        name = metric.title or metric.name
        if in_points(metric):
            return f"{name} at most {self.max_drop:g} points below float's {metric.shown(reference)}"
        side = "below" if metric.higher_is_better else "above"
        return f"{name} at most {self.max_drop:g} % {side} float's {metric.shown(reference)}"

    def judged(self, found: Figures, metric: Metric, finest: float) -> tuple[Verdict, str]:
        """Return whether figures reach the goal, and the sentence that says so.

        Args:
            found: the figures.
            metric: theirs.
            finest: the loss that the samples cannot exclude even of a model that answers as the float model does.
        """
        sign, limit = (1.0 if metric.higher_is_better else -1.0), self.limit(metric, found.reference)
        shown = lambda value: metric.shown(value, "+").removesuffix(metric.unit)  # noqa: E731
        ends = sorted(sign * end for end in (found.low, found.high) if end is not None)
        figures = f"{shown(found.delta)} to float"
        if ends:
            figures += f" (95 % interval {shown(sign * ends[0])} to {shown(sign * ends[1])}, {shown_p(found.p)})"
        if ends and ends[0] >= -limit:
            return "reached", f"{figures}: within the limit of {metric.shown(limit)}"
        if ends and ends[1] < -limit:
            return "missed", f"{figures}: beyond the limit of {metric.shown(limit)}"
        if sign * found.delta >= -limit and (found.p is None or found.p >= SIGNIFICANT) and (not ends or finest > limit):
            few = f"{found.samples:,} samples cannot show less than {metric.shown(finest)}" if ends else "there is no interval"
            return "likely", f"{figures}: no loss is seen, and {few}"
        return "unsure", f"{figures}: {found.samples:,} samples do not tell it from the limit of {metric.shown(limit)}"


def in_points(metric: Metric) -> bool:
    """Whether a metric is a share in percent, of which a loss is counted in points."""
    return metric.unit.strip() == "%"
