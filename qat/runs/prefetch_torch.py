"""Batches made by the worker processes of a DataLoader."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from qat.errors import DataError, QatError
from qat.system.passes import Key


class _Made(Dataset):
    """The batches as tensors, which workers hand over in shared memory; an error that names a file is handed over as such."""

    def __init__(self, make: Callable[[Key], Any], keys: Sequence[Key]) -> None:
        self._make, self._keys = make, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> Any:
        key = self._keys[index]
        random.seed(key.seed)  # so that a transform's draws depend on the batch, not on the worker that makes it
        np.random.seed(key.seed)
        torch.manual_seed(key.seed)
        try:
            return pytree.tree_map_only(np.ndarray, _shared, self._make(key))
        except QatError as error:
            return error


def _shared(array: np.ndarray) -> torch.Tensor | np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(array)) if array.dtype.kind in "biuf" else array


def made(make: Callable[[Key], Any], keys: Sequence[Key], workers: int) -> Iterator[Any]:
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
        yield pytree.tree_map_only(torch.Tensor, torch.Tensor.numpy, batch)


def _as_it_is(batch: object) -> object:
    return batch


def _begin(parent: int, worker: int) -> None:
    """Leave Ctrl-C to the training, which ends its step first; end at once by SIGTERM, and where the training was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.getppid() != parent:  # killed while the worker started: PyTorch's own watch, which begins later, would not see it
        os._exit(1)
