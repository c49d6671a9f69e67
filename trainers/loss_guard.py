"""The losses of a run: read late, so that an accelerator need not wait, and judged: a run that diverges is stopped."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from qat.errors import reason_of
from qat.system.nests import arrays_of, leaves
from qat.system.samples import check_finite

from .callbacks import Callbacks
from .divergence import TrainingDiverged
from .learner import Loss
from .metrics import samples_of
from .run_state import RunState

log = logging.getLogger("qat")


@dataclass(frozen=True)
class _Unread:
    """A step whose loss was not read yet."""

    number: int
    rate: float
    inputs: Any
    labels: Any
    loss: Loss


class LossGuard:
    """Reads the losses of a run of ``total`` steps into its state, and stops it where they diverge."""

    def __init__(self, state: RunState, callbacks: Callbacks, total: int) -> None:
        self.state, self.learner, self.options = state, state.learner, state.options
        self.callbacks, self.total = callbacks, total
        self.unread: deque[_Unread] = deque()

    def add(self, number: int, rate: float, inputs: Any, labels: Any, loss: Loss) -> None:
        """Take the loss of a step, and read those of the steps before; an eager learner's own too."""
        self.unread.append(_Unread(number, rate, inputs, labels, loss))
        self.read(keep=1 if self.learner.late else 0)

    def read(self, keep: int = 0) -> None:
        """Read the losses of the steps so far, but for the last ``keep`` ones.

        Raises:
            DataError: a loss is NaN or infinite, and so is a label.
            TrainingDiverged: a loss is NaN or infinite, or the losses have risen to that of a model that knows nothing.
        """
        p = self.state.progress
        while len(self.unread) > keep:
            done = self.unread.popleft()
            loss = done.loss()
            if not math.isfinite(loss):
                raise TrainingDiverged(self._not_finite(loss, done))
            p.loss_sum, p.seen = p.loss_sum + loss * samples_of(done.labels), p.seen + samples_of(done.labels)
            self._judge(loss, done)
            self.callbacks.step(done.number + 1, loss, done.rate)

    def _judge(self, loss: float, step: _Unread) -> None:
        """Stop where the loss has risen to that of a model that knows nothing, see :mod:`qat.trainers.divergence`."""
        trend, factor = self.state.progress.trend, self.options.divergence
        if factor is None:
            return
        if trend.first is None:
            trend.begin(loss, self._zero_output_loss(step), samples_of(step.labels))
            return
        trend.add(loss)
        if trend.diverges(factor, last=step.number + 1 == self.total):
            raise TrainingDiverged(self._diverged(step))

    def _zero_output_loss(self, step: _Unread) -> float | None:
        try:
            return self.learner.zero_output_loss(step.inputs, step.labels)
        except Exception as error:  # a loss of the user's own may refuse outputs that his model never gives
            log.debug("the loss takes no zero outputs (%s): divergence is judged by the losses alone", reason_of(error))
            return None

    def _not_finite(self, loss: float, step: _Unread) -> str:
        place = f"the loss is {loss} at step {step.number} (epoch {self.state.progress.epoch})"
        for path, labels in leaves(arrays_of(step.labels)):
            check_finite(labels, f"{place}: the array of labels{''.join(f'[{key!r}]' for key in path)}")
        layer = self.learner.first_not_finite(step.inputs)
        where = "though every layer's output is finite" if layer is None else f"first in the output of '{layer}'"
        return (
            f"{place}, {where}: lower learning_rate (now {self.options.peak:g}) or gradient_clip (now "
            f"{self.options.gradient_clip}), and check the data; the step changed no weight"
        )

    def _diverged(self, step: _Unread) -> str:
        p, trend = self.state.progress, self.state.progress.trend
        nothing = "" if trend.zero_output_loss is None else f" (outputs of zero have {trend.zero_output_loss:.3g})"
        if self.state.best:
            self.learner.finish(self.state.best)
            where = "" if self.state.best_path is None else f", which {self.state.best_path} has too"
            best = f"the weights of the best epoch, {p.best_epoch}" if p.best_epoch else "the weights from before training"
            kept = f"the model holds {best}{where}"
        else:
            kept = "no epoch was finished: start again from the calibrated model, without --resume"
        return (
            f"training diverges: by step {step.number + 1} (epoch {p.epoch}) the loss has risen from {trend.start:.3g} to "
            f"{trend.level:.3g}{nothing}, the median of the last {len(trend.recent)} steps, at the learning rate "
            f"{step.rate:.3g}: lower learning_rate (now {self.options.peak:g}), keep gradient_clip at 1 (now "
            f"{self.options.gradient_clip}), or give warmup_steps; {kept}. divergence=None trains on"
        )
