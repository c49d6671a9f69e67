"""A learner: what the loop needs of a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from qat.typing import Batches

from .metric import Metric
from .output_losses import OutputLosses

#: States by name: copies on the host.
Arrays: TypeAlias = dict[str, np.ndarray]

#: Reads a step's loss; on an accelerator this waits until the step is done.
Loss: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Step:
    """The orders for one training step.

    Attributes:
        number: from 0.
        rate: the learning rate.
        tracking: whether activation ranges follow the data.
        share: this batch's share in the update that it belongs to: 1 without accumulation.
        update: whether the weights are updated after this batch.
        dampening: the factor of the weights' distance from their grid in the loss.
    """

    number: int
    rate: float
    tracking: bool
    share: float = 1.0
    update: bool = True
    dampening: float = 0.0


class LogWriter(Protocol):
    """Writes TensorBoard's logs."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Log a value."""

    @property
    def close(self) -> Callable[[], object]:
        """Finish the file."""


class Measuring(Protocol):
    """A model that is measured."""

    #: Whether the classes of a map of scores are the second axis; else the last.
    channels_second: bool

    def labelled(self, data: Batches) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        """Yield input arrays and the labels that the metrics are measured against."""

    def evaluate(self, data: Batches, metrics: Sequence[Metric] | None = None) -> dict[str, float]:
        """Return metrics, of all processes together; by default the options'."""


class Learner(Measuring, Protocol):
    """A model and its optimizer."""

    model: Any
    #: Whether this process writes files: the first of several that train together.
    writes: bool
    #: Whether a loss is read when the next step is under way, so that an accelerator never waits for the host.
    late: bool

    def pairs(self, data: Batches) -> Iterator[tuple[Any, Any]]:
        """Yield checked ``(inputs, labels)`` pairs."""

    def step(self, inputs: Any, labels: Any, step: Step) -> Loss:
        """Train on one batch and return its loss. Where that is no finite number, the weights stay as they were."""

    def first_not_finite(self, inputs: Any) -> str | None:
        """Return the first layer whose output for a batch holds NaN or infinite values, or None."""

    def zero_output_loss(self, inputs: Any, labels: Any) -> float:
        """Return the loss that a batch would have if every output were zero. Nothing that a step depends on is changed."""

    def learn_from_teacher(self, found: OutputLosses) -> None:
        """Take the losses against the teacher's outputs, one for each."""

    def freeze(self) -> None:
        """Freeze the activation ranges, as at the end of training."""

    def weights(self) -> Arrays:
        """Return the weights and ranges."""

    def finish(self, weights: Arrays) -> None:
        """Put weights back, their ranges frozen."""

    def save(self, name: str) -> Path | None:
        """Write the weights, where the options ask for it, and return the file's path."""

    def log_writer(self, folder: str) -> LogWriter:
        """Return a writer of TensorBoard's logs. Raises ImportError where TensorBoard is not installed."""

    def agreed(self, flag: bool) -> bool:
        """Return whether the flag is set in this process or in any that trains together with it."""

    def mean_of(self, values: dict[str, float]) -> dict[str, float]:
        """Return the values' means over all processes that train together."""

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the weights and the optimizer's state: arrays, and JSON-ready values."""

    def restore(self, arrays: Arrays, values: Mapping[str, Any]) -> None:
        """Put back the state that :meth:`state` returned."""

    def random_state(self, data: Batches) -> Arrays:
        """Return the states of the random generators, the data's own among them."""

    def restore_random(self, data: Batches, arrays: Arrays) -> None:
        """Put back the states that :meth:`random_state` returned."""


def part(arrays: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    """Return the arrays whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
