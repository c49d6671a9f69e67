"""The fine-tuning loop that both frameworks share: epochs, schedule, progress, the best weights, a loss that is no number."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from tqdm import tqdm

from qat.errors import DataError, QatError
from qat.trainers.options import Epoch, History, TrainingOptions, count_batches


class Learner(Protocol):
    """A model and its optimizer: what the loop needs of a framework."""

    def pairs(self, data: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield checked ``(inputs, labels)`` pairs."""

    def step(self, inputs: Any, labels: Any, number: int, rate: float, observing: bool) -> float:
        """Train on one batch at a learning rate and return the loss; ``observing`` lets activation ranges move."""

    def evaluate(self, data: Iterable[Any]) -> float:
        """Return the top-1 accuracy in percent."""

    def weights(self) -> Any:
        """Return a copy of the weights and ranges."""

    def finish(self, weights: Any) -> None:
        """Put weights back, their ranges frozen."""

    def save(self, name: str) -> None:
        """Write a checkpoint, where the options ask for any."""


def run(learner: Learner, train_data: Iterable[Any], eval_data: Iterable[Any] | None, options: TrainingOptions) -> History:
    """Train and leave the best epoch's weights in the model. Without evaluation data the last epoch is the best.

    Raises:
        DataError: there are no batches, or no number of them.
        QatError: the loss is NaN or infinite.
    """
    steps = count_batches(train_data)
    total = min(steps * options.epochs, options.max_steps or steps * options.epochs)
    epochs: list[Epoch] = []
    best: tuple[float, int, Any] | None = None
    step, started = 0, time.perf_counter()
    for number in range(1, options.epochs + 1):
        if step >= total:
            break
        running, seen = 0.0, 0
        title, hidden = f"epoch {number}/{options.epochs}", None if options.progress else True
        with tqdm(total=min(steps, total - step), desc=title, disable=hidden) as bar:
            for inputs, labels in learner.pairs(train_data):
                if step >= total:
                    break
                rate, observing = options.rate(step, total), step < options.observe_fraction * total
                loss = learner.step(inputs, labels, step, rate, observing)
                if not math.isfinite(loss):
                    raise QatError(
                        f"the loss is {loss} at step {step} (epoch {number}): lower learning_rate (now {options.peak:g}) or "
                        "gradient_clip, and check the data"
                    )
                running, seen, step = running + loss * len(labels), seen + len(labels), step + 1
                bar.update()
                bar.set_postfix(loss=f"{running / seen:.4f}")
            if seen == 0:
                raise DataError("the training data yields no batches: a generator that was used up yields none, pass a list")
            accuracy = None if eval_data is None else learner.evaluate(eval_data)
            if accuracy is not None:
                bar.set_postfix(loss=f"{running / seen:.4f}", top1=f"{accuracy:.2f} %")
        epochs.append(Epoch(number, running / seen, accuracy))
        score = accuracy if accuracy is not None else float(number)
        if best is None or score > best[0]:
            best = (score, number, learner.weights())
            learner.save("best")
        learner.save("last")
    assert best is not None
    learner.finish(best[2])
    return History(tuple(epochs), step, time.perf_counter() - started, best[1], options)
