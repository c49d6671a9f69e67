"""What a run decides before its first step: the losses against the teacher, the learning rate, and the number of steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np

from qat.errors import DataError
from qat.typing import Batches

from .learner import Learner, Measuring, Step
from .metric import Metric, samples_of
from .metrics import DISTANCE, METRICS
from .named_outputs import NamedOutputs
from .options import TrainingOptions
from .output_losses import OutputLosses, choose
from .rate_trial import steps_of_trial, try_rates
from .time_budget import seconds_of, steps_within

log = logging.getLogger("qat")

#: How many samples, and numbers in one output, the outputs' kinds and divisors are found from.
_SAMPLES, _NUMBERS = 64, 2**25
#: The steps by which a step's time is first measured.
_MEASURED = 3


@dataclass
class Preparation:
    """What was decided, JSON-ready. It travels in the checkpoints, so that a resumed run does not decide again.

    Attributes:
        losses: one for each output (:meth:`OutputLosses.to_list`); empty of a run with labels.
        rate: the peak of the learning rate; None where the options have it.
        total: the steps that fit into the time; None without a time.
        trials: the rates that were tried, and the distance from the teacher after each.
        before: the metrics on the evaluation data before the first step; empty with labels.
    """

    losses: list[dict[str, Any]] = field(default_factory=list)
    rate: float | None = None
    total: int | None = None
    trials: list[tuple[float, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)


def losses_of(learner: Measuring, data: Batches, options: TrainingOptions) -> OutputLosses:
    """Return the losses of the outputs, by what the teacher gives for the first samples of the evaluation data."""
    found: dict[str, list[np.ndarray]] = {}
    seen = 0
    for _, outputs in learner.labelled(data):
        for name, y in _by_name(outputs).items():
            found.setdefault(name, []).append(y)
        seen += samples_of(outputs)
        if seen >= _SAMPLES or max(sum(y.size for y in parts) for parts in found.values()) >= _NUMBERS:
            break
    wanted = options.loss if isinstance(options.loss, (str, Mapping)) else None
    taught = {name: np.concatenate(parts) for name, parts in found.items()}
    return choose(taught, wanted, learner.channels_second)


def evaluated(model: Measuring, data: Batches, options: TrainingOptions) -> dict[str, float]:
    """Return the metrics that a run with these options has; without labels those that follow from the teacher's outputs."""
    if options.labelled or options.metrics is not None or not options.by_output:
        return model.evaluate(data)
    batches = data if iter(data) is not data else list(data)  # a generator, which is read twice
    made = Preparation(losses=losses_of(model, batches, options).to_list())
    return model.evaluate(batches, metrics_of(made, options))


def metrics_of(made: Preparation, options: TrainingOptions) -> tuple[Metric, ...] | None:
    """Return the metrics of a run without labels: those of the options, or the distance, and of a classifier the agreement."""
    if options.metrics is not None or not made.losses:
        return options.chosen_metrics
    losses = OutputLosses.from_list(made.losses)
    first = losses.each[0]
    classifies = len(losses.each) == 1 and (first.name, first.axis) == ("kl", 1)
    distance = distance_metric(losses, options.temperature)
    return (distance, METRICS["top1"]) if classifies else (distance,)


def distance_metric(losses: OutputLosses, temperature: float) -> Metric:
    """Return the distance from the teacher as a metric."""

    def values(outputs: Any, taught: Any) -> np.ndarray:
        return losses.values([*_by_name(outputs).values()], [*_by_name(taught).values()], temperature)

    return Metric(DISTANCE, values, higher_is_better=False, title="distance")


def _by_name(outputs: Any) -> dict[str, np.ndarray]:
    """Return a model's outputs, as a metric takes them, by name."""
    return dict(outputs.items()) if isinstance(outputs, NamedOutputs) else {"output": outputs}


class Preparing:
    """Prepares a run without labels, or one that must end in a time.

    Args:
        learner: with the calibrated model; it ends with the state that the first step starts from.
        data: to train on.
        eval_data: on which metrics are measured; of a run with labels it may be None.
        options: of the run.
        epoch: the number of batches of an epoch.
        asked_to_stop: whether the user wants the run to end.
    """

    def __init__(
        self,
        learner: Learner,
        data: Batches,
        eval_data: Batches | None,
        options: TrainingOptions,
        epoch: int,
        asked_to_stop: Callable[[], bool],
    ) -> None:
        self.learner, self.data, self.eval_data, self.options = learner, data, eval_data, options
        self.epoch, self.asked_to_stop = epoch, asked_to_stop
        self.started = time.perf_counter()

        self.made = Preparation()
        self.evaluation = 0.0

    def measure(self) -> dict[str, float]:
        """Choose the losses, and return the metrics of the model as it is; none with labels."""
        options, made = self.options, self.made
        if options.labelled:
            return {}
        if self.eval_data is None:
            raise DataError("training without labels measures its way on held-out inputs: give eval_data")
        if options.by_output:
            losses = losses_of(self.learner, self.eval_data, options)
            self.learner.learn_from_teacher(losses)
            made.losses = losses.to_list()
            log.warning("no labels: the float model's outputs are the teacher, by the loss %s", losses)
        before = time.perf_counter()
        made.before = self.learner.evaluate(self.eval_data, metrics_of(made, options))
        self.evaluation = time.perf_counter() - before
        return made.before

    def decide(self) -> Preparation:
        """Choose the learning rate and the number of steps, and return all that was decided; less where the user asks to stop."""
        options, made = self.options, self.made
        step = self._step_seconds() if options.time_budget is not None else 0.0
        total = options.steps or (self._within(step) if step else self.epoch * options.epochs)
        if options.tries_rates and not self.asked_to_stop():
            step = self._try(steps_of_trial(min(total, options.max_steps or total))) or step
        if options.time_budget is not None:
            made.total = self._within(step)
        return made

    def _try(self, steps: int) -> float | None:
        """Try the rates, note how each did, and return the seconds of a step."""
        assert self.eval_data is not None
        made = self.made
        data, metric = (
            self.eval_data,
            distance_metric(OutputLosses.from_list(made.losses), self.options.temperature),
        )
        distance = lambda: self.learner.evaluate(data, (metric,))[DISTANCE]  # noqa: E731
        trials = try_rates(self.learner, self.data, self.options, steps, distance, self.asked_to_stop)
        if trials is None:
            return None
        made.trials = [(trial.rate, trial.distance) for trial in trials.each]
        made.rate = trials.each[trials.best].rate
        tried = ", ".join(f"{trial.rate:g}: {trial.distance:.4g}" for trial in trials.each)
        log.warning("learning rate %g, the best of %d steps each (distance from the teacher %s)", made.rate, steps, tried)
        return trials.step_seconds

    def _step_seconds(self) -> float:
        """Return the time of a step, measured on the first ones, which leave no trace."""
        learner = self.learner
        random, start = learner.random_state(self.data), learner.state()
        seconds = []
        for inputs, labels in islice(cycle([*islice(learner.pairs(self.data), _MEASURED)]), _MEASURED):
            before = time.perf_counter()
            learner.step(inputs, labels, Step(0, 0.0, tracking=False))()
            seconds.append(time.perf_counter() - before)
        learner.restore(*start)
        learner.restore_random(self.data, random)
        return min(seconds)

    def _within(self, step: float) -> int:
        """Return the steps that fit into what is left of the time, the same in all processes."""
        assert self.options.time_budget is not None
        left = seconds_of(self.options.time_budget) - (time.perf_counter() - self.started)
        return round(self.learner.mean_of({"steps": steps_within(left, step, self.evaluation, self.epoch)})["steps"])
