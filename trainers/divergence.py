"""Divergence: a run is stopped where its loss has risen to that of a model that knows nothing.

The loss of a step is noise; its level is the median of the last ten steps (and of at least 64 samples), which a bad batch does
not move. That level is held against two others:

- where the run came from: the first loss, before any update, then the lowest level so far;
- the loss of the first batch where every output is zero. For cross-entropy that is the logarithm of the number of classes, for
  distillation the teacher's distance from a uniform answer, for a squared error the labels' mean square: a model that says
  nothing has it, and a trained one is well below.

A run diverges where its level has covered ``factor`` of the way from the one to the other: nine tenths, since a model whose
outputs died still learns how frequent the classes are. Where that way is short (few bits, a net that is not trained yet), or the
loss has no such value (one of the user's own, a negative one), the level may grow to four times its start, the limit of fastai's
``LRFinder`` and Lightning's ``early_stop_threshold``. In both cases the rise must stand out from the spread of the last steps. A
run that jumps in its first steps and recovers, as many do at a high rate, stays below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qat.errors import QatError

#: The steps, and the samples, that a level is taken over at least.
STEPS, SAMPLES = 10, 64
#: By how many times itself a level may grow that has nothing else to be held against.
RISE = 3.0
#: How many median deviations of the last steps a rise must be, where it has something to be held against and where not.
SPREAD_INFORMED, SPREAD = 3.0, 10.0
#: How many times the way is beyond any spread: the losses of a run that explodes differ as much as they rise.
BEYOND = 10.0


class TrainingDiverged(QatError):
    """The loss is NaN or infinite, or has risen to that of a model that knows nothing. The message says which option to lower."""


@dataclass
class Trend:
    """Where a run's loss came from, and where it is. It travels in the checkpoints.

    Attributes:
        first: the loss of the first step, before any update; None before it.
        zero_output_loss: the loss of the first batch with every output zero; None where the loss has no such value.
        lowest: the lowest level so far; None before there is one.
        recent: the last steps' losses, without the first step's.
        length: how many losses a level is taken over.
    """

    first: float | None = None
    zero_output_loss: float | None = None
    lowest: float | None = None
    recent: list[float] = field(default_factory=list)
    length: int = STEPS

    def begin(self, loss: float, zero_output_loss: float | None, samples: int) -> None:
        """Take the first step's loss, that of zero outputs, and the samples of a batch."""
        self.first = loss
        known = zero_output_loss is not None and math.isfinite(zero_output_loss)
        self.zero_output_loss = zero_output_loss if known else None
        self.length = max(STEPS, -(-SAMPLES // samples))

    def add(self, loss: float) -> None:
        """Take a later step's loss."""
        self.recent = [*self.recent, loss][-self.length :]

    @property
    def level(self) -> float:
        """The loss now."""
        return float(np.median(self.recent))

    @property
    def start(self) -> float:
        """The loss that the run is held against."""
        start = self.first if self.lowest is None else self.lowest
        assert start is not None
        return start

    def diverges(self, factor: float, last: bool) -> bool:
        """Whether the run diverges by now. Before there is a whole level only the ``last`` step is judged, by half of one."""
        if len(self.recent) < (self.length // 2 if last else self.length):
            return False
        rise, way = self.level - self.start, factor * self._way()
        if rise > max(way, self._spread()) or (self._informed() and rise > BEYOND * way):
            return True
        if self.lowest is None:
            # The first batch alone says little of a model that knows nothing, or may not: then the first level is the start.
            learned = self.zero_output_loss is not None and self.level < self.zero_output_loss
            self.lowest = min(self.start, self.level) if learned else self.level
        elif self._informed():  # else it may come near zero by chance, and rise again
            self.lowest = min(self.lowest, self.level)
        return False

    def worse(self) -> bool:
        """Whether a run that was not stopped has come out above its start and above zero outputs."""
        if len(self.recent) < self.length // 2 or self.first is None:
            return False
        known = self.zero_output_loss is not None and self.zero_output_loss > self.first
        limit = SPREAD_INFORMED if known else SPREAD
        return self.level - max(self.first, self.zero_output_loss or self.first) > limit * deviation(self.recent)

    def _informed(self) -> bool:
        return self.zero_output_loss is not None and self.zero_output_loss > self.start

    def _way(self) -> float:
        grown = RISE * abs(self.start)
        return grown if self.zero_output_loss is None else max(grown, self.zero_output_loss - self.start)

    def _spread(self) -> float:
        return (SPREAD_INFORMED if self._informed() else SPREAD) * deviation(self.recent)


def deviation(values: Sequence[float]) -> float:
    """Return the median deviation from the median."""
    return float(np.median(np.abs(np.array(values) - np.median(values))))
