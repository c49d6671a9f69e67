"""The fine-tuning loop that both frameworks share: epochs, steps, accumulation, the schedule, and when to stop."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np

from qat.calibration.evidence import warn_of_other_scale
from qat.display.progress import Bar, bar, shown
from qat.errors import ConfigError, DataError
from qat.frameworks import has_plan, in_order
from qat.system.nests import leaves
from qat.typing import Batches

from . import checkpoint
from .callbacks import Callbacks
from .data_checks import count_batches
from .epoch import Epoch
from .history import History
from .interrupt import Interrupts, TrainingInterrupted
from .learner import Learner, Step
from .loss_guard import LossGuard
from .metrics import shown as shown_metrics
from .options import TrainingOptions
from .output_losses import OutputLosses
from .preparation import Preparation, Preparing, metrics_of
from .run_state import RunState
from .time_budget import seconds_of

log = logging.getLogger("qat")


def run(learner: Learner, train_data: Batches, eval_data: Batches | None, options: TrainingOptions) -> History:
    """Train and leave the best epoch's weights in the model. Without evaluation data the last epoch is the best.

    Raises:
        ConfigError: the folder's run cannot be continued so.
        DataError: there are no batches, or no number of them.
        ExportError: a checkpoint cannot be written.
        TrainingDiverged: the loss is NaN or infinite, or has risen to that of a model that knows nothing.
        TrainingInterrupted: by Ctrl-C or SIGTERM; a checkpoint was written.
    """
    progress = shown(options.progress and learner.writes)
    with progress, Interrupts() as interrupts, Callbacks(learner, options, eval_data) as callbacks:
        return _Run(learner, train_data, eval_data, options, interrupts, callbacks).train()


class _Run:
    """One run over its epochs."""

    def __init__(
        self,
        learner: Learner,
        train_data: Batches,
        eval_data: Batches | None,
        options: TrainingOptions,
        interrupts: Interrupts,
        callbacks: Callbacks,
    ) -> None:
        self.learner, self.eval_data, self.options = learner, eval_data, options
        self.interrupts, self.callbacks = interrupts, callbacks
        self.train_data, self.steps = train_data, count_batches(train_data)
        self.stop = self.late = False
        self.started = time.perf_counter()
        self.state = RunState(learner, train_data, options, self.steps)
        self.state.resume()
        self.before = self.state.progress.seconds
        if self.state.progress.preparation is None and (not options.labelled or options.time_budget or options.steps):
            with bar("choosing losses, rate and steps"):
                self._prepare()
        made = self.state.progress.preparation or Preparation()
        self.total = options.steps or made.total or self.steps * options.epochs
        self.total = min(self.total, options.max_steps or self.total)
        self.epochs = -(-self.total // self.steps) if options.steps or made.total else options.epochs
        self.metrics = options.chosen_metrics if options.labelled else metrics_of(made, options)
        if made.losses:
            learner.learn_from_teacher(OutputLosses.from_list(made.losses))
        self.rate = made.rate
        self.losses = LossGuard(self.state, callbacks, self.total)
        if self.state.progress.step > self.total:
            raise ConfigError(
                f"{self.state.folder} holds a run that has done {self.state.progress.step} steps, and epochs={options.epochs}, "
                f"max_steps={options.max_steps} ask for {self.total}: resume with as many or more, or start again elsewhere"
            )
        if self.state.progress.step:
            self._report_resume()

    @property
    def over(self) -> bool:
        """Whether no step is left."""
        p = self.state.progress
        return p.finished or p.step >= self.total or p.epoch > self.epochs

    def _prepare(self) -> None:
        """Decide what the run needs before its first step. Without labels the model as it is now is the first candidate."""
        p, stopped = self.state.progress, lambda: self.learner.agreed(self.interrupts.stop)
        preparing = Preparing(self.learner, self.train_data, self.eval_data, self.options, self.steps, stopped)
        before = preparing.measure()
        if before:
            self.state.keep_best(Epoch(0, math.nan, before))
        p.preparation = preparing.decide()
        if stopped():
            raise TrainingInterrupted("stopped before the first step: a new run starts from the beginning")
        self._write()

    def train(self) -> History:
        p, options = self.state.progress, self.options
        with bar("training", self.total, p.step) as progress:
            while not self.over:
                self._epoch(progress)
        if options.divergence is not None and p.trend.worse():
            log.warning(
                "the loss came out at %.3g, above the %.3g that it started from: lower learning_rate (now %g)",
                p.trend.level, p.trend.first, options.peak,
            )  # fmt: skip
        p.finished = True
        self._checkpoint()
        self.learner.finish(self.state.best)
        if p.best_epoch == 0:
            log.warning("training did not bring the model nearer to its teacher: it stays as it was calibrated")
        return self._history()

    def _history(self) -> History:
        p, made = self.state.progress, self.state.progress.preparation or Preparation()
        return History(
            tuple(Epoch(**epoch) for epoch in p.epochs), p.step, time.perf_counter() - self.started, p.best_epoch, self.options,
            made.before, OutputLosses.from_list(made.losses).names(), self.rate or self.options.peak,
            dict(made.trials),
        )  # fmt: skip

    def _epoch(self, progress: Bar) -> None:
        p = self.state.progress
        progress.title = f"epoch {p.epoch}/{self.epochs}"
        for inputs, labels in self.state.batches():
            if p.step >= self.total or self.late:
                break
            self._step(inputs, labels)
            progress.advance()
            if p.seen:
                progress.note = f"loss {p.loss_sum / p.seen:.4f}"
        self.losses.read()
        if p.seen == 0:
            raise DataError("the training data yields no batches: a generator that was used up yields none, pass a list")
        metrics = {} if self.eval_data is None else self.learner.evaluate(self.eval_data, self.metrics)
        progress.note = ", ".join(filter(None, (f"loss {p.loss_sum / p.seen:.4f}", shown_metrics(metrics))))
        epoch = Epoch(p.epoch, p.loss_sum / p.seen, metrics, self.callbacks.artifact(p.epoch, self.metrics))
        self.callbacks.epoch(epoch, p.step)
        self._finish(epoch)

    def _finish(self, epoch: Epoch) -> None:
        """Record an epoch, and stop after it where that was asked for or where patience is at its end."""
        p, patience = self.state.progress, self.options.patience
        p.epochs.append(
            {"number": epoch.number, "loss": epoch.loss, "metrics": dict(epoch.metrics), "artifact": dict(epoch.artifact)}
        )
        self.state.keep_best(epoch)
        self.learner.save("last")
        p.epoch, p.batch, p.loss_sum, p.seen = p.epoch + 1, 0, 0.0, 0
        p.finished = self.late or (patience is not None and epoch.number - p.best_epoch >= patience)
        if p.step < self.total and not p.finished:  # the run's last checkpoint is written when it ends
            self._checkpoint()
            self.stop = self.learner.agreed(self.interrupts.stop)
            self._stop_if_asked()

    def _step(self, inputs: Any, labels: Any) -> None:
        p, options = self.state.progress, self.options
        # The batches of one update: the last group of an epoch, or of the run, may be smaller.
        group = p.batch - p.batch % options.accumulate
        size = min(options.accumulate, self.steps - group, self.total - (p.step - p.batch % options.accumulate))
        update = p.batch - group == size - 1
        rate, tracking = options.rate(p.step, self.total, self.rate), p.step < options.observed * self.total
        dampening = options.dampened(p.step, self.total)
        if p.step == 0:
            self._check_scale(inputs)
        loss = self.learner.step(inputs, labels, Step(p.step, rate, tracking, 1 / size, update, dampening))
        number, p.step, p.batch = p.step, p.step + 1, p.batch + 1
        self.losses.add(number, rate, inputs, labels, loss)
        self.late = self._is_late()
        if update:  # between updates there are gradients that no checkpoint holds
            every = options.checkpoint_every
            self.stop = self.learner.agreed(self.interrupts.stop)
            if self.stop or (every is not None and p.step // every > (p.step - size) // every and p.step < self.total):
                self._checkpoint()
            self._stop_if_asked()

    def _is_late(self) -> bool:
        """Whether the time is over, in any process."""
        budget = self.options.time_budget
        if budget is None:
            return False
        return self.learner.agreed(self._seconds() > seconds_of(budget))

    def _seconds(self) -> float:
        """Return the time that the run took, before a resume too."""
        return self.before + time.perf_counter() - self.started

    def _check_scale(self, inputs: Any) -> None:
        """Warn where the first batch is on another scale than the samples that calibrated the model."""
        model = self.learner.model
        arrays = [x for _, x in leaves(in_order(model, inputs))] if has_plan(model) else []
        if has_plan(model) and all(hasattr(x, "shape") for x in arrays):  # else shared out to several devices
            found = [np.asarray(x.detach().float().cpu() if hasattr(x, "detach") else x) for x in arrays]
            warn_of_other_scale(model, found, "training batch 0")

    def _checkpoint(self) -> None:
        self.losses.read()  # in every process alike: all stop together where a loss is no number
        self._write()

    def _write(self) -> None:
        self.state.progress.seconds = self._seconds()
        self.state.write()

    def _report_resume(self) -> None:
        p = self.state.progress
        if self.over:
            log.warning("%s holds a finished run of %d steps: there is nothing to continue", self.state.folder, p.step)
        else:
            log.warning("continuing from step %d, epoch %d of %d", p.step, p.epoch, self.epochs)
        if p.batch:
            log.warning(
                "%d batches of epoch %d were seen before and are skipped; the others follow in the same order where it "
                "comes from set_epoch or the global random generators", p.batch, p.epoch,
            )  # fmt: skip

    def _stop_if_asked(self) -> None:
        if not self.stop:
            return
        place = f"stopped after step {self.state.progress.step} of {self.total}"
        if self.state.folder is None:
            raise TrainingInterrupted(f"{place}; there was no checkpoint_dir, so that a new run starts from the beginning")
        path = self.state.folder / checkpoint.CURRENT
        raise TrainingInterrupted(f"{place}; {path} continues it, with --resume (resume=True)")
