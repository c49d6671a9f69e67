"""The order of the batches of each pass over data: the same in any process, and again after a run resumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Key:
    """What a batch is made of, the same in any process.

    Attributes:
        chosen: the indices of its samples.
        mirrored: which of them are mirrored; None for none.
        seed: of the random generators that a sample's own transforms draw from, where a worker makes the batch.
    """

    chosen: np.ndarray
    mirrored: np.ndarray | None = None
    seed: int = 0


@dataclass(frozen=True)
class Pass:
    """One pass over the data.

    Attributes:
        epoch: its number, from 0.
        order: the indices of the samples, in its order.
        places: where in ``order`` each batch lies, from the first that is to be made.
        first: the number of that batch.
        random: draws what else differs from pass to pass; None of data in order.
    """

    epoch: int
    order: np.ndarray
    places: tuple[slice, ...]
    first: int
    random: np.random.Generator | None


class Passes:
    """Batches of chosen samples, ``len`` of them, iterated as often as wanted.

    Args:
        chosen: the indices of the samples.
        size: samples a batch; the last one of shuffled data is left out if it is smaller.
        seed: that gives, with the epoch's number, the order; None keeps the order.
    """

    def __init__(self, chosen: np.ndarray, size: int, seed: int | None) -> None:
        self._chosen, self._size, self._seed = chosen, size, seed
        self._epoch, self._start = 0, 0

    def __len__(self) -> int:
        n = len(self._chosen)
        return n // self._size if self._seed is not None and n >= self._size else -(-n // self._size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration's order belongs to: a run that resumes sees the same batches."""
        self._epoch = epoch

    def start_at(self, batch: int) -> None:
        """Begin the next iteration at the batch of this number: those before it are not even read."""
        self._start = batch

    def next_pass(self) -> Pass:
        """Return the pass of the next iteration; the one after it belongs to the next epoch."""
        epoch, first, self._epoch, self._start = self._epoch, self._start, self._epoch + 1, 0
        random = None if self._seed is None else np.random.default_rng((self._seed, epoch))
        order = self._chosen if random is None else self._chosen[random.permutation(len(self._chosen))]
        places = tuple(slice(i * self._size, (i + 1) * self._size) for i in range(first, len(self)))
        return Pass(epoch, order, places, first, random)
