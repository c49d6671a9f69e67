"""Samples as users give them: batches, pairs of inputs and labels, arrays and tensors; and the checks that refuse some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qat.errors import CaptureError, DataError

from .sample_sets import as_batches, as_pair


def batches_of(data: object, what: str) -> Iterable[Any]:
    """Return an iterable of batches; one array or tensor is a single batch, and single samples are stacked.

    Raises:
        DataError: the object cannot be iterated.
    """
    batches: Any = as_batches(data, what)
    if batches is data and hasattr(data, "shape"):
        return [data]
    if isinstance(batches, str | bytes) or not isinstance(batches, Iterable):
        raise DataError(f"{what}: expected batches (a DataLoader, tf.data, a list of arrays), found {type(data).__name__}")
    return batches


def check_fit(shapes: Mapping[str, tuple[int | None, ...]], arrays: Sequence[Any]) -> None:
    """Raise DataError unless arrays or tensors fit a prepared model's inputs, given by name; a size of None is any."""
    if len(arrays) != len(shapes):
        raise DataError(f"the model has {len(shapes)} inputs, {len(arrays)} were given")
    for (name, want), array in zip(shapes.items(), arrays, strict=True):
        have = tuple(array.shape)
        if len(want) != len(have) or any(w not in (None, h) for w, h in zip(want, have, strict=True)):
            raise DataError(f"input '{name}' has shape {have}, the model takes {want} (None: any size)")
        if 0 in have:
            raise DataError(f"input '{name}' has shape {have}: the batch holds no samples")


class Parts(NamedTuple):
    """The parts of a batch, each nested as the user gave it.

    Attributes:
        inputs: what the model takes.
        labels: what the loss takes; None of a batch that is inputs alone.
        weights: of the samples in the loss; None where all count alike.
    """

    inputs: Any
    labels: Any = None
    weights: Any = None


def parts_of(batch: Any, inputs: int = 1) -> Parts:
    """Return the parts of a batch. All calls take batches apart by this rule:

    A pair or triple is ``(inputs, labels[, weights])``, anything else inputs. A list or tuple of length one is its only element.
    Where the model has several ``inputs``, a flat tuple of so many arrays is those; with labels they are written
    ``((a, b), labels)``. Of a mapping with a column of labels (``labels``, ``label``, ``targets``, ``target``), the others are
    the inputs.

    Raises:
        CaptureError: the batch is empty.
    """
    batch = as_pair(batch)
    if not isinstance(batch, (tuple, list)) or hasattr(batch, "_fields"):
        return Parts(batch)
    if inputs > 1 and len(batch) == inputs and all(hasattr(x, "shape") for x in batch):
        return Parts(tuple(batch))
    if len(batch) == 0:
        raise CaptureError("a calibration sample is an empty tuple: yield input batches, or (inputs, labels) pairs")
    return Parts(*batch) if len(batch) in (2, 3) else Parts(batch[0])


def first_of_pair(sample: Any, inputs: int = 1) -> Any:
    """Return the inputs of a batch, see :func:`parts_of`."""
    return parts_of(sample, inputs).inputs


def check_finite(x: np.ndarray, where: str) -> None:
    """Raise DataError, naming the place, if a float array holds NaN or infinite values."""
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        what = "give a mask as booleans, or with a number such as -10000" if np.isneginf(x[first]) else "clean the data"
        raise DataError(f"{where} holds {x[first]} at index {first}: {what} before training on it")
