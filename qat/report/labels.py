"""Batches as a comparison reads them: inputs, and the labels beside them as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qat.errors import DataError
from qat.system.sample_sets import as_pair
from qat.system.samples import first_of_pair
from qat.typing import Inputs


def inputs_of(batches: Iterable[Any], count: int, labels: list[Any]) -> Iterator[Inputs]:
    """Yield the inputs of each batch, and add its labels to ``labels``; None where it has none."""
    for batch in map(as_pair, batches):
        inputs = first_of_pair(batch, count)
        is_pair = isinstance(batch, (tuple, list)) and len(batch) > 1 and inputs is batch[0]
        labels.append(_arrays(batch[1]) if is_pair else None)
        yield inputs


def labels_of(labels: list[Any]) -> list[Any] | None:
    """Return the labels of each batch; None where the data has none.

    Raises:
        DataError: some batches have labels, and others none.
    """
    missing = [answers is None for answers in labels]
    if any(missing) and not all(missing):
        raise DataError(
            "some batches of the comparison have labels and others none: yield (inputs, labels) pairs, or inputs alone"
        )
    return None if missing[0] else labels


def _arrays(labels: Any) -> Any:
    if isinstance(labels, Mapping):
        return {name: np.asarray(array) for name, array in labels.items()}
    if isinstance(labels, (tuple, list)) and len(labels) and all(hasattr(x, "shape") and len(x.shape) for x in labels):
        return tuple(np.asarray(array) for array in labels)
    return np.asarray(labels)
