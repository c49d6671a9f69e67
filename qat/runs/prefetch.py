"""Batches that are made ahead, while the model trains: by PyTorch's worker processes, or by tf.data's threads."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast

from qat.system.passes import Key
from qat.system.sample_sets import SampleBatches

from .dataset import Batches

#: No more workers than these are started unasked.
_MOST = 8


class _Maker(Protocol):
    """What the module of each framework has."""

    def made(self, make: Callable[[Key], Any], keys: Sequence[Key], workers: int) -> Iterator[Any]:
        """Yield the batches of all keys, in order."""


def default_workers() -> int:
    """Return how many workers decode images: one for each processor of this process but one, eight at most."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST, count - 1))


class Prefetched:
    """The same batches in the same order, made by workers."""

    def __init__(self, batches: Batches | SampleBatches, framework: Literal["torch", "keras"], workers: int) -> None:
        self._batches, self._framework, self._workers = batches, framework, workers
        self.set_epoch, self.start_at = batches.set_epoch, batches.start_at

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        maker = cast(_Maker, importlib.import_module(f".prefetch_{self._framework}", __package__))
        keys = self._batches.keys()
        return maker.made(self._batches.make, keys, min(self._workers, max(1, len(keys))))
