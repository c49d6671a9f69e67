"""Data that give single samples: data sets of PyTorch, Hugging Face and WebDataset, stacked into batches. None is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np

from qat.errors import DataError, reason_of

from .passes import Key, Passes

#: Samples a batch, where the user chose no number: that of ``model.fit``.
BATCH_SIZE = 32

#: The columns of a row that hold its labels, the first one that there is.
LABEL_COLUMNS = ("labels", "label", "targets", "target")

#: What data give: batches, single samples by their number, or single samples one after another.
Kind = Literal["batches", "samples", "stream"]


def kind_of(data: object) -> Kind:
    """Return what data give. A DataLoader, a ``tf.data.Dataset``, a list and other iterables give batches."""
    names = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(data).__mro__}
    rows = hasattr(data, "column_names") and hasattr(data, "with_format")  # Hugging Face's
    if "torch.IterableDataset" in names or (rows and not hasattr(data, "__len__")):
        return "batches" if _batched(data) else "stream"
    return "samples" if rows or "torch.Dataset" in names else "batches"


def _batched(data: Any) -> bool:
    """Return whether a WebDataset pipeline has a stage that makes batches."""
    stages = getattr(data, "pipeline", ())
    return any("batch" in getattr(getattr(s, "f", s), "__name__", type(s).__name__).lower() for s in stages)


def as_pair(batch: Any) -> Any:
    """Return a row or a batch of columns as ``(inputs, labels)``, where one of its columns holds labels; else what was given.

    A single column of inputs stands for itself; several stay a dictionary, which Keras takes by name.
    """
    if not isinstance(batch, Mapping):
        return batch
    label = next((name for name in LABEL_COLUMNS if name in batch), None)
    if label is None:
        return batch
    inputs = {name: value for name, value in batch.items() if name != label and not name.startswith("__")}
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs, batch[label]


def stacked(samples: Sequence[Any], where: str) -> Any:
    """Return samples as a batch: arrays, tensors and numbers are stacked, tuples and dictionaries keep their form.

    Raises:
        DataError: the samples have different shapes, or hold something else.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        return {name: stacked([s[name] for s in samples], where) for name in first}
    if isinstance(first, tuple) or (isinstance(first, list) and any(hasattr(x, "shape") for x in first)):
        return tuple(stacked(part, where) for part in zip(*samples, strict=True))
    try:
        array = np.stack([np.asarray(s) for s in samples])
    except ValueError as error:
        raise DataError(
            f"{where}: samples of different shapes make no batch ({reason_of(error)}): resize or pad them in a transform, or "
            "pass a DataLoader with a collate_fn"
        ) from error
    if array.dtype == object or hasattr(first, "getbbox"):
        raise DataError(f"{where}: a sample holds a {type(first).__name__}: give the data set a transform that makes arrays")
    return array.astype(np.float32) if array.dtype == np.float64 and not hasattr(first, "dtype") else array


class SampleBatches(Passes):
    """Batches of samples that are read by their numbers; iterated as often as wanted.

    Args:
        samples: has a length, and gives a sample by its number.
        size: samples a batch; the last one of shuffled data is left out if it is smaller.
        shuffle: a seed, which with the epoch's number gives the order; None keeps the order.
        chosen: the numbers of the samples; None takes all.
        collate: makes a batch of a list of samples.
        what: names the data in messages.
    """

    def __init__(
        self,
        samples: Any,
        size: int = BATCH_SIZE,
        shuffle: int | None = None,
        chosen: np.ndarray | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        what: str = "the data",
    ) -> None:
        super().__init__(np.arange(len(samples)) if chosen is None else chosen, size, shuffle)
        self._samples, self._collate, self._what = samples, collate, what

    def keys(self) -> list[Key]:
        """Return what the batches of the next iteration are made of."""
        found = self.next_pass()
        seeds = np.random.SeedSequence((self._seed or 0, found.epoch)).generate_state(max(1, len(self)))
        return [Key(found.order[place], seed=int(seeds[i])) for i, place in enumerate(found.places, found.first)]

    def make(self, key: Key) -> Any:
        """Return a batch.

        Raises:
            DataError: a sample cannot be read.
        """
        samples = []
        for index in key.chosen:
            try:
                sample = self._samples[int(index)]
                samples.append(as_pair(sample) if self._collate is None else sample)
            except Exception as error:  # whatever the user's data set raises
                said = f"{type(error).__name__}: {reason_of(error)}"
                raise DataError(f"{self._what}: sample {index} cannot be read: {said}") from error
        return stacked(samples, self._what) if self._collate is None else self._collate(samples)

    def __iter__(self) -> Iterator[Any]:
        return map(self.make, self.keys())


class StreamBatches:
    """Batches of samples that come one after another; a stream that can be read once is used up by one pass."""

    def __init__(self, stream: Iterable[Any], size: int = BATCH_SIZE, what: str = "the data") -> None:
        self._stream, self._size, self._what = stream, size, what

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, where the stream itself depends on it."""
        if hasattr(self._stream, "set_epoch"):
            self._stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        samples = iter(self._stream)
        while batch := list(islice(samples, self._size)):
            yield stacked([as_pair(sample) for sample in batch], self._what)


def as_batches(data: Any, what: str, size: int = BATCH_SIZE, shuffle: int | None = None) -> Any:
    """Return data as batches; what gives batches is returned as it is."""
    kind = kind_of(data)
    if kind == "samples":
        return SampleBatches(data, size, shuffle, what=what)
    return StreamBatches(data, size, what) if kind == "stream" else data
