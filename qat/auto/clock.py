"""The time of a search: what is left of its budget, and what a step will take of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .evidence import Evidence
from .journal import Attempt
from .steps import Step

#: Estimates may be short by this factor.
_SPARE = 1.25
#: A training step is a forward pass and a backward one, which is about twice as long.
_BACKWARD = 3.0
#: Of training, the least share of an epoch that is worth its calibration.
_LEAST = 0.1
#: The seconds that the report and its plots take, besides the comparison.
_REPORT = 3.0


@dataclass(frozen=True)
class Clock:
    """The time of a search.

    Attributes:
        budget: in seconds.
        before: the seconds that earlier processes took.
        started: when this process began, by ``time.perf_counter``.
    """

    budget: float
    before: float
    started: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """The seconds so far."""
        return self.before + time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.budget - self.spent


@dataclass(frozen=True)
class Pace:
    """How long things take here, measured.

    Attributes:
        calibration: seconds of a calibration and an export.
        look: seconds of a comparison on the validation data.
        final: seconds of the comparison on the test data and of the report.
        evidence: of the first step.
        training, validation, calibrating: the numbers of samples; None of a stream.
    """

    calibration: float
    look: float
    final: float
    evidence: Evidence
    training: int | None
    validation: int | None
    calibrating: int

    @classmethod
    def of(cls, first: Attempt, evidence: Evidence, share_of_test: float, counts: tuple[int | None, int | None, int]) -> Pace:
        """Return the pace that the first step went at."""
        look = first.seconds - first.built
        return cls(first.built, look, _SPARE * look * share_of_test + _REPORT, evidence, *counts)

    def least(self, step: Step) -> float:
        """Return the seconds that a step takes at least, the comparison on the test data after it among them."""
        return _SPARE * (self.calibration + self.look + self._own(step)) + self.final

    def _own(self, step: Step) -> float:
        found = self.evidence
        if step.name == "bias_correction":
            return found.layers * self.calibrating * found.sample
        if step.rounds:
            return found.rounding
        if step.name == "reconstruction":
            return _BACKWARD * found.sample * (300 * 64 + found.layers * self.calibrating)
        if step.tells_apart:
            passes = 2 * found.layers if step.name == "mixed_precision" else 10 * _BACKWARD
            return passes * found.sample * min(self.validation or 0, 1024) + 7 * (self.calibration + self.look)
        if not step.trains or self.training is None:
            return 0.0
        return found.sample * (_LEAST * _BACKWARD * self.training + 2 * (self.validation or 0))

    def for_training(self, left: float) -> float:
        """Return the seconds that a training may take of those that are left."""
        return left - _SPARE * (self.calibration + self.look) - self.final
