"""Training data without labels: how it is told from labelled data, and which of it is held out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from qat.system.sample_sets import kind_of
from qat.system.samples import parts_of
from qat.typing import Batches

from . import randomness

log = logging.getLogger("qat")

#: The size of a batch where one array is given.
BATCH = 8
#: Of so many batches one is held out, and at most this many are.
_EVERY, _MOST = 10, 8


def lacks_labels(data: object, inputs: int) -> bool:
    """Whether training data is seen to have no labels: its first batch is no pair ``(inputs, labels)``.

    Nothing is drawn from the data's own random generators. Data whose first batch cannot be seen without that has labels.

    Args:
        data: batches.
        inputs: how many the model has: a flat tuple of so many arrays is the inputs alone, as is a mapping of so many.
    """
    first = _first_batch(data)
    if first is None:
        return False
    if isinstance(first, Mapping):  # which may hold labels under a name of its own beside the inputs
        return len(first) == inputs and parts_of(first, inputs).labels is None
    if not isinstance(first, (tuple, list)):
        return True
    return len(first) == 1 or (inputs > 1 and len(first) == inputs and all(hasattr(x, "shape") for x in first))


def _first_batch(data: Any) -> Any:
    kind = kind_of(data)
    if kind == "stream":
        return None
    if hasattr(data, "shape") and kind == "batches":
        return data
    if hasattr(data, "element_spec"):  # tf.data
        return data.element_spec
    samples = getattr(data, "dataset", None)
    owner = samples if samples is not None and hasattr(samples, "__getitem__") else data
    if not hasattr(owner, "__getitem__") or isinstance(owner, Mapping) or not len(owner):
        return None
    before = randomness.state()
    try:
        return owner[0]
    finally:
        randomness.restore(before)


class ArrayBatches(Sequence[np.ndarray]):
    """An array of inputs in batches, in another order each epoch."""

    def __init__(self, array: Any, seed: int) -> None:
        self.array, self.seed = array, seed
        self.order = np.arange(len(array))

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for an epoch."""
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.array))

    def __len__(self) -> int:
        return math.ceil(len(self.array) / BATCH)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        return self.array[self.order[index * BATCH : (index + 1) * BATCH]]


def held_out(data: Any, seed: int) -> tuple[Batches, Batches]:
    """Return the data to train on, and batches of inputs that are held out.

    A tenth is: of an array its last samples, of a list every tenth batch, at most eight. Of a single batch, and of data that
    can only be iterated, the first ones are trained on too.
    """
    if hasattr(data, "shape"):
        data = np.asarray(data.cpu() if hasattr(data, "cpu") else data)
        out = min(max(len(data) // _EVERY, 1), _MOST * BATCH)
        if len(data) > 1:
            return ArrayBatches(data[:-out], seed), [data[-out:][i : i + BATCH] for i in range(0, out, BATCH)]
        data = [data]
    if isinstance(data, (list, tuple)) and len(data) > 1:
        taken = set(range(_EVERY - 1, len(data), _EVERY)[:_MOST]) or {len(data) - 1}
        return [b for i, b in enumerate(data) if i not in taken], [b for i, b in enumerate(data) if i in taken]
    log.warning(
        "no batch is held out: the first ones, which are trained on too, choose the learning rate and the best epoch; give "
        "eval_data, or a list of batches"
    )
    return data, list(islice(_batches(data), _MOST))


def _batches(data: Iterable[Any]) -> Iterator[Any]:
    set_epoch = getattr(data, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(0)
    yield from data
