"""The reading of the user's own batches: errors that name them, labels that are noted, and samples drawn from a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qat.errors import DataError, QatError, reason_of
from qat.system.sample_sets import as_pair

from .splits import holds_classes

#: Of a stream so many times the wanted samples are read, and those are drawn from them.
_BUFFER = 4


class Read:
    """The user's own batches. An error of theirs says which part could not be read, and class numbers are noted after a pass."""

    #: What training looks for in its data.
    _DOORS = ("set_epoch", "start_at", "sampler", "generator", "dataset", "element_spec")

    def __init__(self, batches: Any, what: str, note: Callable[[list[np.ndarray]], None] | None) -> None:
        self._batches, self._what, self._note = batches, what, note

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        if name not in self._DOORS:
            raise AttributeError(name)
        return getattr(self._batches, name)

    def __iter__(self) -> Iterator[Any]:
        labels: list[np.ndarray] = []
        batches, index = iter(self._batches), 0
        while True:
            try:
                batch = next(batches, None)
            except QatError:
                raise
            except Exception as error:  # whatever the user's data raise
                said = f"{type(error).__name__}: {reason_of(error)}"
                raise DataError(f"data.factory: {self._what}: batch {index} cannot be read: {said}") from error
            if batch is None:
                break
            index += 1
            pair = as_pair(batch)
            if self._note is not None and isinstance(pair, (tuple, list)) and len(pair) == 2 and hasattr(pair[1], "shape"):
                found = np.asarray(pair[1])
                labels += [found] if holds_classes(found) else []
            yield batch
        if self._note is not None:
            self._note(labels)


def drawn(batches: Iterable[Any], count: int, seed: int, what: str) -> tuple[list[Any], int]:
    """Return ``count`` samples, drawn at random from the first batches, four times as many, and how many were read.

    Each of those read is kept with the same chance (Vitter 1985, algorithm R).
    """
    random, read = np.random.default_rng(seed), 0
    kept: list[Any] = []
    for batch in batches:
        pair = as_pair(batch)
        for i in range(_length(pair)):
            place = read if read < count else int(random.integers(read + 1))
            read += 1
            if place < count:
                sample = _sample(pair, i)
                kept[place : place + 1] = [sample]
        if read >= _BUFFER * count:
            break
    if not kept:
        raise DataError(f"data.factory: {what} yield no batches")
    return kept, read


def _length(batch: Any) -> int:
    first = batch
    while isinstance(first, (tuple, list, Mapping)):
        first = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
    return len(first)


def _sample(batch: Any, index: int) -> Any:
    """Return one sample of a batch, copied: a view would keep the batch in memory."""
    if isinstance(batch, Mapping):
        return {name: _sample(value, index) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_sample(value, index) for value in batch)
    return np.array(batch[index])
