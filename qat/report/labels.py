"""Batches as a comparison reads them: inputs, and the labels beside them as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from qat.errors import DataError
from qat.system.nests import arrays_of
from qat.system.samples import parts_of
from qat.typing import Inputs


def inputs_of(batches: Iterable[Any], count: int, labels: list[Any]) -> Iterator[Inputs]:
    """Yield the inputs of each batch, and add its labels to ``labels``; None where it has none."""
    for batch in batches:
        parts = parts_of(batch, count)
        labels.append(arrays_of(parts.labels))
        yield parts.inputs


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
