"""The learning rate of a run without labels: a few are tried for some steps each, on inputs that are held out.

Which rate is good depends on the model more than on the method: three times too much can end worse than the calibrated model.
Every trial starts from the calibrated model, sees the same batches, and lets its rate fall as the run does, since the distance at
a high rate is noise. The rate whose model comes nearest to the teacher is taken, and the run goes on from that trial's weights,
whose steps are not lost. A trial ends early where its loss is no finite number. All of it follows from the seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from qat.typing import Batches

from .learner import Arrays, Learner, Step
from .options import TrainingOptions

#: The rates, each about three times the one before: Adam's usual one for fine-tuning is among them.
RATES = (1e-5, 3e-5, 1e-4, 3e-4)
#: For other optimizers they are multiplied by how much higher their usual rates are than Adam's.
_OF_ADAM = 1e-3
#: The steps of one trial: a twentieth of the run's, within limits.
_SHARE, _LEAST, _MOST = 20, 5, 40


@dataclass(frozen=True)
class Trial:
    """One rate's trial.

    Attributes:
        rate: the peak.
        distance: from the teacher at its end, on the held-out inputs; infinite where the loss was no number.
    """

    rate: float
    distance: float


@dataclass(frozen=True)
class Trials:
    """All trials of a run.

    Attributes:
        each: in the order of the rates.
        best: the index of the one whose model is nearest to the teacher.
        step_seconds: the time of a step, the median of all.
    """

    each: tuple[Trial, ...]
    best: int
    step_seconds: float


def steps_of_trial(total: int) -> int:
    """Return the number of steps of one trial in a run of so many."""
    return min(max(total // _SHARE, _LEAST), _MOST)


def try_rates(
    learner: Learner,
    data: Batches,
    options: TrainingOptions,
    steps: int,
    distance: Callable[[], float],
    asked_to_stop: Callable[[], bool],
) -> Trials | None:
    """Try the rates, leave the learner with the state of the best, and return how each did; None if asked to stop.

    Args:
        learner: holds the calibrated model.
        data: to train on; the random states are as before afterwards.
        options: of the run.
        steps: of each trial.
        distance: measures the learner's model now.
        asked_to_stop: whether the user wants the run to end.
    """
    random = learner.random_state(data)
    batches = list(islice(learner.pairs(data), steps))
    start = learner.state()
    scale = options.usual_rate / _OF_ADAM
    each: list[Trial] = []
    states: list[tuple[Arrays, dict[str, Any]]] = []
    seconds: list[float] = []
    for rate in (scale * r for r in RATES):
        learner.restore(*start)
        learner.restore_random(data, random)
        finite = _train(learner, batches, options, rate, steps, seconds, asked_to_stop)
        if asked_to_stop():
            return None
        each.append(Trial(rate, distance() if finite else math.inf))
        states.append(learner.state())
    best = min(range(len(each)), key=lambda i: each[i].distance)
    learner.restore(*(start if math.isinf(each[best].distance) else states[best]))
    learner.restore_random(data, random)
    return Trials(tuple(each), best, sorted(seconds)[len(seconds) // 2])


def _train(
    learner: Learner,
    batches: Sequence[tuple[Any, Any]],
    options: TrainingOptions,
    peak: float,
    steps: int,
    seconds: list[float],
    asked_to_stop: Callable[[], bool],
) -> bool:
    """Train for some steps; return whether every loss was a number."""
    for number, (inputs, labels) in enumerate(islice(cycle(batches), steps)):
        if asked_to_stop():
            return False
        before = time.perf_counter()
        loss = learner.step(inputs, labels, Step(number, options.rate(number, steps, peak), tracking=options.observed > 0))()
        seconds.append(time.perf_counter() - before)
        if not math.isfinite(loss):
            return False
    return True
