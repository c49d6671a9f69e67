"""Batches made by the worker processes of a DataLoader."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from qat.errors import DataError, QatError

from .dataset import Arrays, Key


class _Made(Dataset):
    """The batches as tensors, which workers hand over in shared memory; an error that names a file is handed over as such."""

    def __init__(self, make: Callable[[Key], Arrays], keys: Sequence[Key]) -> None:
        self._make, self._keys = make, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...] | QatError:
        try:
            return tuple(torch.from_numpy(x) for x in self._make(self._keys[index]))
        except QatError as error:
            return error


def made(make: Callable[[Key], Arrays], keys: Sequence[Key], workers: int) -> Iterator[Arrays]:
    """Yield the batches of all keys, in order.

    Raises:
        DataError: a batch cannot be made, or a worker died.
    """
    loader = DataLoader(
        _Made(make, keys), batch_size=None, num_workers=workers, collate_fn=_as_it_is,
        worker_init_fn=partial(_begin, os.getpid()),
        generator=torch.Generator(),  # the global one decides a training's dropout
        multiprocessing_context="fork" if sys.platform == "linux" else None,  # a copy of the data would be sent otherwise
    )  # fmt: skip
    batches = iter(loader)
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            raise DataError(
                f"a worker that reads the data died: {error}; data.workers: 0 reads them in the run's own process"
            ) from error
        if batch is None:
            return
        if isinstance(batch, QatError):
            raise batch
        yield tuple(x.numpy() for x in batch)


def _as_it_is(batch: object) -> object:
    return batch


def _begin(parent: int, worker: int) -> None:
    """Leave Ctrl-C to the training, which ends its step first; end at once by SIGTERM, and where the training was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.getppid() != parent:  # killed while the worker started: PyTorch's own watch, which begins later, would not see it
        os._exit(1)
