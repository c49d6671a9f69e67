"""The checks of the training data: its number of batches, and its labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qat.errors import DataError


def count_batches(data: Iterable[Any]) -> int:
    """Return the number of training batches, which the schedule needs.

    Raises:
        DataError: the data has no length, or none but zero.
    """
    try:
        count = len(data)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(
            "the training data has no length: pass a DataLoader, a tf.data pipeline of known cardinality or a list of batches, "
            "since the schedule needs the number of steps"
        ) from error
    if count == 0:
        raise DataError("the training data is empty: no batches")
    return count


def check_labels(labels: Any, samples: int, classes: int, where: str) -> None:
    """Raise DataError unless labels (an array or tensor on the CPU) are class numbers below ``classes``, one a sample."""
    shape = tuple(labels.shape)
    if shape != (samples,):
        raise DataError(f"{where}: labels have shape {shape}, expected one class number for each of {samples} inputs")
    if "int" not in str(labels.dtype):
        raise DataError(f"{where}: labels are {labels.dtype}, expected class numbers (integers); give your own loss for others")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        found = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise DataError(f"{where}: label {found} is out of range: the model has {classes} outputs")
