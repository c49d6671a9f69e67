"""The checks of the training data: its number of batches, and its labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, cast

from qat.errors import DataError, QatError, reason_of
from qat.frameworks import taken_whole
from qat.system.sample_sets import as_batches
from qat.system.samples import first_of_pair, parts_of
from qat.typing import Batches

from .options import TrainingOptions
from .sample_weights import Weighted

#: How the frameworks call the error of a device that has no memory left: that is no fault of a batch.
_NO_MEMORY = ("OutOfMemoryError", "ResourceExhaustedError")


@contextmanager
def of_batch(where: str, model: Any, inputs: Any, fails: str = "the model") -> Iterator[None]:
    """Name the batch on which a user's code fails.

    Args:
        where: the batch.
        model: that is called.
        inputs: of the batch, as the data yielded them.
        fails: what does not take the batch.

    Raises:
        DataError: for any error that is not this package's own.
    """
    try:
        yield
    except (QatError, MemoryError):
        raise
    except Exception as error:  # the frameworks' own share no base class but this
        if type(error).__name__ in _NO_MEMORY:
            raise
        reason = reason_of(error) + taken_whole(model, inputs)
        raise DataError(f"{where}: {fails} does not take its values: {reason}") from error


#: What a loss lacks that no gradient can be taken of.
NO_GRADIENT = (
    "the loss has no gradient: compute it from the model's outputs by the framework's own operations, without argmax, rounding, "
    "NumPy or a cut of the gradient"
)


class Repeated:
    """A stream of batches of unknown number, begun again where it ends: an epoch is so many steps."""

    def __init__(self, batches: Any, steps: int) -> None:
        self._batches, self._steps = batches, steps
        self.sampler, self.generator = getattr(batches, "sampler", None), getattr(batches, "generator", None)

    def __len__(self) -> int:
        return self._steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, where the stream depends on it."""
        if hasattr(self._batches, "set_epoch"):
            self._batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        left = self._steps
        while left:
            before = left
            for batch in self._batches:
                yield batch
                left -= 1
                if not left:
                    return
            if left == before:
                raise DataError("the training data yields no batches: a generator that was used up yields none, pass a list")


def training_batches(data: Any, options: TrainingOptions) -> Batches:
    """Return training data as batches with a length: single samples are shuffled by the options' seed and stacked.

    Data of unknown length are repeated for ``steps``, or for ``max_steps``, shared out among the epochs.
    """
    data = as_batches(data, "the training data", shuffle=options.seed)
    try:
        len(data)
    except TypeError:
        if options.steps is not None:
            return Repeated(data, options.steps)
        if options.max_steps is not None:
            return Repeated(data, math.ceil(options.max_steps / options.epochs))
    return cast(Batches, data)


def count_batches(data: Batches) -> int:
    """Return the number of training batches, which the schedule needs.

    Raises:
        DataError: the data has no length, or none but zero.
    """
    try:
        count = len(cast(Sized, data))
    except TypeError as error:
        raise DataError(
            "the training data has no length, and the schedule needs the number of steps: give max_steps or steps, or pass a "
            "DataLoader, a tf.data pipeline of known cardinality or a list of batches"
        ) from error
    if count == 0:
        raise DataError("the training data is empty: no batches")
    return count


def split_batch(batch: Any, index: int, labelled: bool, inputs: int) -> tuple[Any, Any]:
    """Return the inputs and the labels of a batch; None for the labels of a run that takes none.

    Raises:
        DataError: labels are needed, and the batch is no pair.
    """
    if not labelled:
        return first_of_pair(batch, inputs), None
    parts = parts_of(batch, 1)
    if parts.labels is None:
        raise DataError(f"batch {index} is not an (inputs, labels) pair")
    return parts.inputs, parts.labels if parts.weights is None else Weighted(parts.labels, parts.weights)


def check_labels(labels: Any, expected: tuple[int, ...], classes: int, where: str) -> None:
    """Raise DataError unless labels (an array or tensor on the CPU) are class numbers below ``classes``.

    Args:
        labels: one a sample, or maps of them, in which 255 and -100 are no class.
        expected: the labels' shape.
        classes: their number.
        where: for the message.
    """
    shape = tuple(labels.shape)
    if "int" not in str(labels.dtype):
        raise DataError(
            f"{where}: labels are {labels.dtype} of shape {shape}, expected class numbers (integers); give your own loss for "
            "others"
        )
    if shape != tuple(expected):
        more = "" if len(expected) == 1 else f" in shape {tuple(expected)}"
        raise DataError(f"{where}: labels have shape {shape}, expected one class number for each of {expected[0]} inputs{more}")
    low, high = int(labels.min()), int(labels.max())
    if len(expected) > 1 and (low < 0 or high >= classes):
        kept = labels[(labels != 255) & (labels != -100)] if classes <= 255 else labels[labels != -100]
        low, high = (int(kept.min()), int(kept.max())) if len(kept) else (0, 0)
    if low < 0 or high >= classes:
        raise DataError(f"{where}: label {low if low < 0 else high} is out of range: the model has {classes} outputs")
