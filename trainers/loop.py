"""The fine-tuning loop that both frameworks share: epochs, schedule, progress, the best weights, checkpoints, what goes wrong."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from qat.errors import DataError, reason_of

from . import checkpoint
from .callbacks import Callbacks, Watched
from .checkpoint import Checkpoint, Progress
from .data_checks import count_batches
from .divergence import TrainingDiverged
from .history import Epoch, History
from .interrupt import Interrupts, TrainingInterrupted
from .options import TrainingOptions

log = logging.getLogger("qat")

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What a training step is told.

    Attributes:
        number: from 0.
        rate: the learning rate.
        observing: whether activation ranges follow the data.
        share: this batch's share in the update that it belongs to: 1 without accumulation.
        update: whether the weights are updated after this batch.
        dampening: the factor of the weights' distance from their grid in the loss.
    """

    number: int
    rate: float
    observing: bool
    share: float = 1.0
    update: bool = True
    dampening: float = 0.0


#: Reads a step's loss; on an accelerator this waits until the step is done.
Loss = Callable[[], float]


@dataclass(frozen=True)
class _Unread:
    """A step whose loss was not read yet."""

    number: int
    rate: float
    inputs: Any
    labels: Any
    loss: Loss


class Learner(Watched, Protocol):
    """A model and its optimizer: what the loop needs of a framework. States are arrays by name, copies on the host."""

    model: Any
    #: Whether this process writes files: the first of several that train together.
    writes: bool
    #: Whether a loss is read when the next step is under way, so that an accelerator never waits for the host.
    late: bool

    def pairs(self, data: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield checked ``(inputs, labels)`` pairs."""

    def step(self, inputs: Any, labels: Any, step: Step) -> Loss:
        """Train on one batch and return its loss. Where that is no finite number the weights are left as they were."""

    def first_not_finite(self, inputs: Any) -> str | None:
        """Return the first layer whose output for a batch holds NaN or infinite values, or None."""

    def silent_loss(self, inputs: Any, labels: Any) -> float:
        """Return the loss of a batch if every output were zero. Nothing that a step depends on is changed."""

    def evaluate(self, data: Iterable[Any]) -> dict[str, float]:
        """Return the options' metrics."""

    def weights(self) -> Arrays:
        """Return the weights and ranges."""

    def finish(self, weights: Arrays) -> None:
        """Put weights back, their ranges frozen."""

    def save(self, name: str) -> Path | None:
        """Write the weights, where the options ask for it, and return where they are."""

    def agreed(self, flag: bool) -> bool:
        """Return whether the flag is set in this process or in any that trains together with it."""

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the weights and the optimizer's state: arrays, and JSON-ready values."""

    def restore(self, arrays: Arrays, values: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""

    def random_state(self, data: Iterable[Any]) -> Arrays:
        """Return the states of the random generators, the data's own among them."""

    def restore_random(self, data: Iterable[Any], arrays: Arrays) -> None:
        """Put back what :meth:`random_state` returned."""


def run(learner: Learner, train_data: Iterable[Any], eval_data: Iterable[Any] | None, options: TrainingOptions) -> History:
    """Train and leave the best epoch's weights in the model. Without evaluation data the last epoch is the best.

    Raises:
        DataError: there are no batches, or no number of them.
        ExportError: a checkpoint cannot be written.
        TrainingDiverged: the loss is NaN or infinite, or has risen to where the model knows nothing.
        TrainingInterrupted: by Ctrl-C or SIGTERM; a checkpoint was written.
    """
    with Interrupts() as interrupts, Callbacks(learner, options, eval_data) as callbacks:
        return _Run(learner, train_data, eval_data, options, interrupts, callbacks).train()


class _Run:
    """One run: where it is, and the best weights so far."""

    def __init__(
        self,
        learner: Learner,
        train_data: Iterable[Any],
        eval_data: Iterable[Any] | None,
        options: TrainingOptions,
        interrupts: Interrupts,
        callbacks: Callbacks,
    ) -> None:
        self.learner, self.train_data, self.eval_data, self.options = learner, train_data, eval_data, options
        self.interrupts, self.callbacks = interrupts, callbacks
        self.folder = None if options.checkpoint_dir is None else Path(options.checkpoint_dir)
        self.steps = count_batches(train_data)
        self.total = min(self.steps * options.epochs, options.max_steps or self.steps * options.epochs)
        self.progress = Progress()
        self.best: Arrays = {}
        self.best_path: Path | None = None
        self.epoch_random: Arrays = {}
        self.resumed_random: Arrays | None = None
        self.stop = False
        self.unread: deque[_Unread] = deque()
        self.started = time.perf_counter()
        if self.folder is not None and checkpoint.holds_run(self.folder):
            self._resume(self.folder)

    @property
    def over(self) -> bool:
        """Whether no step is left."""
        return self.progress.finished or self.progress.step >= self.total or self.progress.epoch > self.options.epochs

    def train(self) -> History:
        p, options = self.progress, self.options
        while not self.over:
            self._epoch()
        if self.options.divergence is not None and p.trend.worse():
            log.warning(
                "the loss came out at %.3g, above the %.3g that it started from: lower learning_rate (now %g)",
                p.trend.level, p.trend.first, options.peak,
            )  # fmt: skip
        p.finished = True
        self._checkpoint()
        self.learner.finish(self.best)
        epochs = tuple(Epoch(**epoch) for epoch in p.epochs)
        return History(epochs, p.step, time.perf_counter() - self.started, p.best_epoch, options)

    def _epoch(self) -> None:
        p, options = self.progress, self.options
        title, hidden = f"epoch {p.epoch}/{options.epochs}", None if options.progress and self.learner.writes else True
        with tqdm(total=min(self.steps, self.total - p.step + p.batch), initial=p.batch, desc=title, disable=hidden) as bar:
            for inputs, labels in self._batches():
                if p.step >= self.total:
                    break
                self._step(inputs, labels)
                bar.update()
                if p.seen:
                    bar.set_postfix(loss=f"{p.loss_sum / p.seen:.4f}")
            self._read()
            if p.seen == 0:
                raise DataError("the training data yields no batches: a generator that was used up yields none, pass a list")
            metrics = {} if self.eval_data is None else self.learner.evaluate(self.eval_data)
            bar.set_postfix(loss=f"{p.loss_sum / p.seen:.4f}", **{name: f"{value:.4g}" for name, value in metrics.items()})
        artifact = self.callbacks.artifact(p.epoch)
        epoch = Epoch(p.epoch, p.loss_sum / p.seen, metrics, artifact)
        self.callbacks.epoch(epoch, p.step)
        p.epochs.append({"number": epoch.number, "loss": epoch.loss, "metrics": dict(metrics), "artifact": dict(artifact)})
        self._keep_best(epoch)
        self.learner.save("last")
        p.epoch, p.batch, p.loss_sum, p.seen = p.epoch + 1, 0, 0.0, 0
        p.finished = options.patience is not None and epoch.number - p.best_epoch >= options.patience
        if p.step < self.total and not p.finished:  # the run's last one is written when it ends
            self._checkpoint()
            self.stop = self.learner.agreed(self.interrupts.stop)
            self._stop_if_asked()

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        """Yield the epoch's batches; after a resume, those that were not seen yet."""
        p = self.progress
        for owner in (self.train_data, getattr(self.train_data, "sampler", None)):
            set_epoch = getattr(owner, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(p.epoch - 1)
        if self.resumed_random is None:
            self.epoch_random = self.learner.random_state(self.train_data)
        else:
            self.learner.restore_random(self.train_data, self.epoch_random)
        batches = self.learner.pairs(self.train_data)
        for index in range(p.batch):
            if next(batches, None) is None:
                raise DataError(f"the training data yields {index} batches, fewer than the {p.batch} that were done before")
        if self.resumed_random is not None:
            self.learner.restore_random(self.train_data, self.resumed_random)
            self.resumed_random = None
        return batches

    def _step(self, inputs: Any, labels: Any) -> None:
        p, options = self.progress, self.options
        group = p.batch - p.batch % options.accumulate
        size = min(options.accumulate, self.steps - group, self.total - (p.step - p.batch % options.accumulate))
        update = p.batch - group == size - 1
        rate, observing = options.rate(p.step, self.total), p.step < options.observe_fraction * self.total
        dampening = options.dampened(p.step, self.total)
        loss = self.learner.step(inputs, labels, Step(p.step, rate, observing, 1 / size, update, dampening))
        self.unread.append(_Unread(p.step, rate, inputs, labels, loss))
        p.step, p.batch = p.step + 1, p.batch + 1
        self._read(keep=1 if self.learner.late else 0)
        if update:  # between updates there are gradients that no checkpoint holds
            every = options.checkpoint_every
            self.stop = self.learner.agreed(self.interrupts.stop)
            if self.stop or (every is not None and p.step // every > (p.step - size) // every and p.step < self.total):
                self._checkpoint()
            self._stop_if_asked()

    def _read(self, keep: int = 0) -> None:
        """Read the losses of the steps so far, but for the last ``keep`` ones."""
        p = self.progress
        while len(self.unread) > keep:
            done = self.unread.popleft()
            loss = done.loss()
            if not math.isfinite(loss):
                raise TrainingDiverged(self._not_finite(loss, done))
            p.loss_sum, p.seen = p.loss_sum + loss * len(done.labels), p.seen + len(done.labels)
            self._watch(loss, done)
            self.callbacks.step(done.number + 1, loss, done.rate)

    def _not_finite(self, loss: float, step: _Unread) -> str:
        layer = self.learner.first_not_finite(step.inputs)
        where = "though every layer's output is finite" if layer is None else f"first in the output of '{layer}'"
        return (
            f"the loss is {loss} at step {step.number} (epoch {self.progress.epoch}), {where}: lower learning_rate (now "
            f"{self.options.peak:g}) or gradient_clip (now {self.options.gradient_clip}), and check the data; the step changed "
            "no weight"
        )

    def _watch(self, loss: float, step: _Unread) -> None:
        """Stop where the loss has risen to where the model knows nothing, see :mod:`qat.trainers.divergence`."""
        p, factor = self.progress, self.options.divergence
        if factor is None:
            return
        if p.trend.first is None:
            p.trend.begin(loss, self._silent(step.inputs, step.labels), len(step.labels))
            return
        p.trend.add(loss)
        if p.trend.diverges(factor, last=step.number + 1 == self.total):
            raise TrainingDiverged(self._diverged(step))

    def _silent(self, inputs: Any, labels: Any) -> float | None:
        try:
            return self.learner.silent_loss(inputs, labels)
        except Exception as error:  # a loss of the user's own may refuse outputs that his model never gives
            log.debug("the loss takes no zero outputs (%s): divergence is judged by the losses alone", reason_of(error))
            return None

    def _diverged(self, step: _Unread) -> str:
        p, trend = self.progress, self.progress.trend
        nothing = "" if trend.silent is None else f" (outputs of zero have {trend.silent:.3g})"
        if self.best:
            self.learner.finish(self.best)
            where = "" if self.best_path is None else f", which {self.best_path} has too"
            kept = f"the model holds the weights of the best epoch, {p.best_epoch}{where}"
        else:
            kept = "no epoch was finished: start again from the calibrated model, without --resume"
        return (
            f"training diverges: by step {step.number + 1} (epoch {p.epoch}) the loss has risen from {trend.start:.3g} to "
            f"{trend.level:.3g}{nothing}, the median of the last {len(trend.recent)} steps, at the learning rate "
            f"{step.rate:.3g}: lower learning_rate (now {self.options.peak:g}), keep gradient_clip at 1 (now "
            f"{self.options.gradient_clip}), or give warmup_steps; {kept}. divergence=None trains on"
        )

    def _keep_best(self, epoch: Epoch) -> None:
        p = self.progress
        score = epoch.accuracy if epoch.accuracy is not None else float(epoch.number)
        if epoch.accuracy is not None and not self.options.chosen_metrics[0].higher_is_better:
            score = -score
        if p.best_epoch == 0 or score > p.best_score:
            p.best_score, p.best_epoch, self.best = score, epoch.number, self.learner.weights()
            self.best_path = self.learner.save("best")

    # --- checkpoints ---

    def _checkpoint(self) -> None:
        self._read()  # in every process alike: all stop together where a loss is no number
        if self.folder is None or not self.learner.writes:
            return
        arrays, values = self.learner.state()
        parts = {"": arrays, "best/": self.best, "epoch_random/": self.epoch_random}
        parts["random/"] = self.learner.random_state(self.train_data)
        named = {prefix + name: array for prefix, part in parts.items() for name, array in part.items()}
        checkpoint.write(self.folder, Checkpoint(self.progress, named, values, self.options.decisive()))

    def _resume(self, folder: Path) -> None:
        if not self.options.resume:
            log.warning("%s holds a run: this one starts again and replaces it; resume=True (--resume) would continue it", folder)
            return
        found = checkpoint.read(folder)
        assert found is not None
        checkpoint.check_options(found.options, self.options.decisive())
        self.progress = found.progress
        part = lambda prefix: {k.removeprefix(prefix): v for k, v in found.arrays.items() if k.startswith(prefix)}  # noqa: E731
        self.best, self.epoch_random = part("best/"), part("epoch_random/")
        self.learner.restore(dict(found.arrays), found.values)
        self.learner.restore_random(self.train_data, part("random/"))
        p = self.progress
        if self.over:
            log.warning("%s holds a finished run of %d steps: there is nothing to continue", self.folder, p.step)
        else:
            log.warning("continuing from step %d, epoch %d of %d", p.step, p.epoch, self.options.epochs)
        if p.batch:
            self.resumed_random = part("random/")
            log.warning(
                "%d batches of epoch %d were seen before and are skipped; the others follow in the same order where it "
                "comes from set_epoch or the global random generators", p.batch, p.epoch,
            )  # fmt: skip

    def _stop_if_asked(self) -> None:
        if not self.stop:
            return
        place = f"stopped after step {self.progress.step} of {self.total}"
        if self.folder is None:
            raise TrainingInterrupted(f"{place}; there was no checkpoint_dir, so that a new run starts from the beginning")
        raise TrainingInterrupted(f"{place}; {self.folder / checkpoint.CURRENT} continues it, with --resume (resume=True)")
